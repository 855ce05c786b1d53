package main

import (
	"os"
	"path/filepath"
	"strings"
)

// stateDirectory returns the folder in which systemd lets slid keep what shall last (StateDirectory= in systemd.exec(5)),
// or "" if there is none.
func stateDirectory() string { return firstFolder("STATE_DIRECTORY") }

// socketPath returns where the running agent answers: in the folder that systemd makes for it (RuntimeDirectory=), or
// where that is for the service of the host.
func socketPath() string {
	folder := firstFolder("RUNTIME_DIRECTORY")
	if folder == "" {
		folder = "/run/slid"
	}
	return filepath.Join(folder, "slid.sock")
}

// firstFolder returns the first of the folders in a variable of systemd's.
func firstFolder(variable string) string {
	folder, _, _ := strings.Cut(os.Getenv(variable), ":")
	return folder
}
