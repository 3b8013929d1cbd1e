package daemon

import (
	"io"
	"log/slog"

	"portcullis.dev/portcullis/cmd/internal/config"
)

// NewLogger writes to w as the configuration says.
func NewLogger(w io.Writer, c config.Log) *slog.Logger {
	level := slog.LevelInfo
	// The configuration was validated; an unknown word leaves the default.
	_ = level.UnmarshalText([]byte(c.Level))
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
