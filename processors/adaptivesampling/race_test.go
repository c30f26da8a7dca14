//go:build race

package adaptivesampling

const raceDetector = true // which makes everything many times as slow
