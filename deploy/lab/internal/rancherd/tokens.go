package rancherd

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Token is one entry of the token table. The secret itself is never stored.
type Token struct {
	// Name is the part before the colon: token-xxxxx.
	Name string `json:"name"`
	// SecretHash is the SHA-256, in hex, of the part after the colon.
	SecretHash string `json:"secretHash"`
	// User is who requests with the token are made as, on every cluster.
	User string `json:"user"`
	// Expires is when the token ends; zero means never.
	Expires time.Time `json:"expires,omitzero"`
}

type tokenFile struct {
	Tokens []Token `json:"tokens"`
}

// Tokens is the token table, kept in a file and read again when that changes.
type Tokens struct {
	byName fresh[map[string]Token]
	now    func() time.Time
}

// OpenTokens uses the table in path; a file that is not there is an empty table.
func OpenTokens(path string) *Tokens {
	return &Tokens{byName: fresh[map[string]Token]{path: path, read: tokensByName}, now: time.Now}
}

// User returns who presents the bearer value (token-xxxxx:secret).
func (t *Tokens) User(bearer string) (string, bool) {
	name, secret, ok := strings.Cut(bearer, ":")
	if !ok || secret == "" {
		return "", false
	}
	tok, ok := t.byName.get()[name]
	if !ok || tok.User == "" {
		return "", false
	}
	if subtle.ConstantTimeCompare([]byte(hash(secret)), []byte(tok.SecretHash)) != 1 {
		return "", false
	}
	if !tok.Expires.IsZero() && !t.now().Before(tok.Expires) {
		return "", false
	}
	return tok.User, true
}

// tokensByName reads the table. One that cannot be read leaves nobody in.
func tokensByName(path string) (map[string]Token, error) {
	list, err := readTokens(path)
	byName := make(map[string]Token, len(list))
	for _, tok := range list {
		byName[tok.Name] = tok
	}
	return byName, err
}

// NewToken adds a token for user to the table in path and returns its bearer
// value. A ttl of zero makes one that does not expire; a negative ttl one that
// has expired already.
func NewToken(path, user string, ttl time.Duration) (string, error) {
	name, secret := "token-"+strings.ToLower(rand.Text()[:5]), strings.ToLower(rand.Text()+rand.Text())
	tok := Token{Name: name, SecretHash: hash(secret), User: user}
	if ttl != 0 {
		tok.Expires = time.Now().Add(ttl).UTC()
	}
	list, err := readTokens(path)
	if err != nil {
		return "", err
	}
	if err := writeTokens(path, append(list, tok)); err != nil {
		return "", err
	}
	return name + ":" + secret, nil
}

// RevokeToken takes the token with this name, or with this bearer value, out of the table.
func RevokeToken(path, nameOrBearer string) error {
	name, _, _ := strings.Cut(nameOrBearer, ":")
	list, err := readTokens(path)
	if err != nil {
		return err
	}
	kept := list[:0]
	for _, tok := range list {
		if tok.Name != name {
			kept = append(kept, tok)
		}
	}
	if len(kept) == len(list) {
		return fmt.Errorf("no token %s in %s", name, path)
	}
	return writeTokens(path, kept)
}

func readTokens(path string) ([]Token, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f tokenFile
	if err := yaml.UnmarshalStrict(b, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f.Tokens, nil
}

func writeTokens(path string, list []Token) error {
	b, err := yaml.Marshal(tokenFile{Tokens: list})
	if err != nil {
		return err
	}
	return WriteFile(path, b, 0o600)
}

// WriteFile replaces a file in one step, so that no reader sees half of it.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // a no-op after the rename
	if _, err = tmp.Write(b); err == nil {
		err = tmp.Chmod(mode)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
