//go:build race

package host

// raceDetector says that the race detector is in the binary: its own memory grows with every address ever used, so that
// what is resident says nothing.
const raceDetector = true
