//go:build !race

package adaptivesampling

const raceDetector = false
