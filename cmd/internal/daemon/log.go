package daemon

import (
	"context"
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"portcullis.dev/portcullis/cmd/internal/config"
)

// NewLogger writes to w as the configuration says. Each line says which rollout,
// environment and cluster it is about, where it is about one.
func NewLogger(w io.Writer, c config.Log) *slog.Logger {
	level := slog.LevelInfo
	// The configuration was validated; an unknown word leaves the default.
	_ = level.UnmarshalText([]byte(c.Level))
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(newAbout(slog.NewJSONHandler(w, o)))
	}
	return slog.New(newAbout(slog.NewTextHandler(w, o)))
}

// Adopt sends what libraries log by themselves (client-go by klog, lasso by
// logrus) the same way: warnings and worse, so that every line has one form.
func Adopt(l *slog.Logger) {
	klog.SetSlogLogger(l)
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.WarnLevel)
	logrus.AddHook(hook{l})
}

type hook struct{ to *slog.Logger }

// Levels has what is worth telling.
func (hook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

// Fire hands one entry over.
func (h hook) Fire(e *logrus.Entry) error {
	level := slog.LevelError
	if e.Level == logrus.WarnLevel {
		level = slog.LevelWarn
	}
	attrs := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, k, v)
	}
	h.to.Log(context.Background(), level, e.Message, attrs...)
	return nil
}
