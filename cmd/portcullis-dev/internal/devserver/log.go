package devserver

import (
	"context"
	"log/slog"
	"strings"

	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
)

// logger hands Temporal's log to slog, warnings and worse alone: the rest is
// about Temporal's inside. Temporal's Panic and Fatal are logged as errors; it
// is the caller of Start that decides about the process.
type logger struct{ to *slog.Logger }

var _ log.Logger = logger{}

func (l logger) Debug(string, ...tag.Tag)           {}
func (l logger) Info(string, ...tag.Tag)            {}
func (l logger) Warn(msg string, tags ...tag.Tag)   { l.log(slog.LevelWarn, msg, tags) }
func (l logger) Error(msg string, tags ...tag.Tag)  { l.log(slog.LevelError, msg, tags) }
func (l logger) DPanic(msg string, tags ...tag.Tag) { l.log(slog.LevelError, msg, tags) }
func (l logger) Panic(msg string, tags ...tag.Tag)  { l.log(slog.LevelError, msg, tags) }
func (l logger) Fatal(msg string, tags ...tag.Tag)  { l.log(slog.LevelError, msg, tags) }

// aboutNexus is said at every start because the frontend's HTTP API, which
// nothing here uses, is off.
const aboutNexus = "HTTP API port has not been set"

func (l logger) log(level slog.Level, msg string, tags []tag.Tag) {
	if strings.HasPrefix(msg, aboutNexus) {
		return
	}
	attrs := make([]slog.Attr, 0, len(tags))
	for _, t := range tags {
		// Stack traces of Temporal's own code help nobody here.
		if t.Key() != "stacktrace" {
			attrs = append(attrs, slog.Any(t.Key(), t.Value()))
		}
	}
	l.to.LogAttrs(context.Background(), level, msg, attrs...)
}
