//go:build race

package sampling

const raceDetector = true // which makes everything many times as slow
