package documents

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapHandler writes what slog is told to the collector's logger.
type zapHandler struct{ logger *zap.Logger }

var _ slog.Handler = zapHandler{}

// Enabled implements [slog.Handler].
func (h zapHandler) Enabled(_ context.Context, level slog.Level) bool {
	return h.logger.Core().Enabled(zapLevel(level))
}

// Handle implements [slog.Handler].
func (h zapHandler) Handle(_ context.Context, r slog.Record) error {
	fields := make([]zap.Field, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		fields = append(fields, field(a))
		return true
	})
	h.logger.Log(zapLevel(r.Level), r.Message, fields...)
	return nil
}

// WithAttrs implements [slog.Handler].
func (h zapHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := make([]zap.Field, len(attrs))
	for i, a := range attrs {
		fields[i] = field(a)
	}
	return zapHandler{h.logger.With(fields...)}
}

// WithGroup implements [slog.Handler].
func (h zapHandler) WithGroup(name string) slog.Handler {
	return zapHandler{h.logger.With(zap.Namespace(name))}
}

func field(a slog.Attr) zap.Field { return zap.Any(a.Key, a.Value.Resolve().Any()) }

func zapLevel(level slog.Level) zapcore.Level {
	switch {
	case level >= slog.LevelError:
		return zapcore.ErrorLevel
	case level >= slog.LevelWarn:
		return zapcore.WarnLevel
	case level >= slog.LevelInfo:
		return zapcore.InfoLevel
	}
	return zapcore.DebugLevel
}
