package slack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"strings"
	"time"

	slackgo "github.com/slack-go/slack"
	"go.temporal.io/sdk/activity"

	"portcullis.dev/portcullis/activities/errs"
)

// picture uploads what shows a matrix, unless that was done. Without one there is still
// the text: a picture that cannot be had holds no message up.
func (a *Activities) picture(ctx context.Context, m *Matrix, had *Picture) *Picture {
	if m == nil {
		return nil
	}
	p := &Picture{Of: pictureOf(*m)}
	if had != nil && had.Of == p.Of {
		return had
	}
	data, err := Draw(*m)
	if err == nil {
		err = a.client.Do(ctx, "files.upload", "a picture", func(ctx context.Context, api *slackgo.Client) error {
			file, err := api.UploadFileContext(ctx, slackgo.UploadFileParameters{
				Reader: bytes.NewReader(data), FileSize: len(data), Filename: "measured.png", Title: "Measured before the change", AltTxt: inWords(*m),
			})
			if err == nil {
				p.File = file.ID
			}
			return err
		})
	}
	if err == nil {
		return p
	}
	if activity.IsActivity(ctx) {
		activity.GetLogger(ctx).Warn("the gate is shown without its picture", "reason", errs.Message(err))
	}
	p.Error = errs.Message(err)
	if errs.TypeOf(err) == errs.TypeUnavailable {
		p.Of = "" // with the next change of the message it is tried again
	}
	return p
}

func pictureOf(m Matrix) string {
	raw, err := json.Marshal(m)
	if err != nil { // texts and numbers always marshal
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// notReady are the waits for Slack to make something of a file that it has just taken:
// until then it calls blocks with it invalid.
var notReady = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// withPicture sends a message that shows the file of a picture, and without it where there
// is none or Slack has it not ready in time. send says whether Slack refused the blocks.
func withPicture(ctx context.Context, p *Picture, send func(file string) (refused bool, err error)) error {
	if p != nil && p.File != "" {
		for _, wait := range notReady {
			refused, err := send(p.File)
			if !refused {
				return err
			}
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			case <-t.C:
			}
		}
	}
	_, err := send("")
	return err
}

// measured shows a matrix: in words, and as the picture where there is a file of it.
func measured(m Matrix, file string) []slackgo.Block {
	blocks := []slackgo.Block{section(matrixText(m))}
	if file != "" {
		blocks = append(blocks, slackgo.NewImageBlockSlackFile(&slackgo.SlackFileObject{ID: file}, inWords(m), "", nil))
	}
	return blocks
}

// matrixText says in words what the picture shows.
func matrixText(m Matrix) string {
	lines := []string{"*Measured before the change:* " + inWords(m)}
	for i, r := range m.Rows {
		met, unmet := strings.Count(r.Cells, string(CellMet)), strings.Count(r.Cells, string(CellUnmet))
		line := fmt.Sprintf("%d  %s: as required on %d of %d", i+1, Free(r.Name), met, len(r.Cells))
		if unmet > 0 {
			line += ", not on " + named(r.Unmet, unmet, MostUnmet)
		}
		if unknown := len(r.Cells) - met - unmet; unknown > 0 {
			line += fmt.Sprintf(", not measured on %d", unknown)
		}
		lines = append(lines, line)
	}
	if m.Left > 0 {
		lines = append(lines, fmt.Sprintf("and %s more", count(m.Left, "requirement")))
	}
	return strings.Join(lines, "\n")
}

// inWords counts, for those who do not see the picture.
func inWords(m Matrix) string {
	cells, met := 0, 0
	for _, r := range m.Rows {
		cells += len(r.Cells)
		met += strings.Count(r.Cells, string(CellMet))
	}
	s := fmt.Sprintf("%d of %d as required, by %s on %s", met, cells, count(len(m.Rows), "requirement"), count(m.Clusters, "cluster"))
	if columns := m.columns(); columns < m.Clusters {
		s += fmt.Sprintf(", of which the first %d are shown", columns)
	}
	return s
}

func (m Matrix) columns() int {
	n := 0
	for _, r := range m.Rows {
		n = max(n, len(r.Cells))
	}
	return n
}

// Sizes of a picture, in pixels.
const (
	cellSize = 22
	cellGap  = 3
	margin   = 8
	digit    = 2 // a dot of a digit
	leastBig = 320
)

// The colours of cells differ in lightness too, and each has a mark of its own.
var (
	paper   = color.RGBA{255, 255, 255, 255}
	ink     = color.RGBA{90, 90, 90, 255}
	met     = color.RGBA{46, 125, 50, 255}
	unmet   = color.RGBA{245, 166, 35, 255}
	unknown = color.RGBA{224, 224, 224, 255}
)

// Draw is a matrix as a PNG: rows and columns have numbers; green is as required, amber
// with a cross is not, grey was not measured.
func Draw(m Matrix) ([]byte, error) {
	rows, columns := min(len(m.Rows), MostRows), min(m.columns(), MostColumns)
	left := margin + 2*4*digit + cellGap
	top := margin + 6*digit + cellGap
	step := cellSize + cellGap
	img := image.NewRGBA(image.Rect(0, 0, max(left+columns*step+margin, leastBig), top+rows*step+margin))
	draw.Draw(img, img.Bounds(), image.NewUniform(paper), image.Point{}, draw.Src)
	for x := range columns {
		if x == 0 || (x+1)%5 == 0 {
			number(img, left+x*step, margin, x+1)
		}
	}
	for y := range rows {
		number(img, margin, top+y*step+(cellSize-5*digit)/2, y+1)
		for x := range min(len(m.Rows[y].Cells), columns) {
			cell(img, left+x*step, top+y*step, m.Rows[y].Cells[x])
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil, errs.Failed("the picture of what was measured cannot be made: %v", err)
	}
	return out.Bytes(), nil
}

func cell(img *image.RGBA, x, y int, is byte) {
	fill := unknown
	switch is {
	case CellMet:
		fill = met
	case CellUnmet:
		fill = unmet
	}
	box(img, x, y, cellSize, cellSize, fill)
	switch is {
	case CellMet:
	case CellUnmet:
		for i := 6; i < cellSize-6; i++ {
			box(img, x+i, y+i, 2, 2, ink)
			box(img, x+cellSize-2-i, y+i, 2, 2, ink)
		}
	default:
		box(img, x+6, y+cellSize/2-1, cellSize-12, 2, ink)
	}
}

func box(img *image.RGBA, x, y, w, h int, c color.RGBA) {
	draw.Draw(img, image.Rect(x, y, x+w, y+h), image.NewUniform(c), image.Point{}, draw.Src)
}

// digits are three dots wide and five high, row by row from the top.
var digits = [10]uint16{
	0b111_101_101_101_111, 0b010_110_010_010_111, 0b111_001_111_100_111, 0b111_001_111_001_111, 0b101_101_111_001_001,
	0b111_100_111_001_111, 0b111_100_111_101_111, 0b111_001_001_001_001, 0b111_101_111_101_111, 0b111_101_111_001_111,
}

// number draws a number of at most two digits.
func number(img *image.RGBA, x, y, n int) {
	for i, r := range fmt.Sprint(n) {
		for dot := range 15 {
			if digits[r-'0']>>(14-dot)&1 == 1 {
				box(img, x+(4*i+dot%3)*digit, y+dot/3*digit, digit, digit, ink)
			}
		}
	}
}
