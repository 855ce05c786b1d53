package cgroup

import (
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// Walk calls each with the path of every group below the mounted directory, parents before children, until it returns
// false. It visits at most as many as a Tree remembers.
func Walk(mount string, each func(group string) bool) {
	visited := 0
	// Directories come and go during the walk: what cannot be read is skipped.
	_ = filepath.WalkDir(mount, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if visited++; visited > maxPaths || !each(path.Join("/", strings.TrimPrefix(p, mount))) {
			return fs.SkipAll
		}
		return nil
	})
}

// UnitOf returns the name of the systemd unit of which the group is, as systemctl has it.
func UnitOf(group string) string { return unescape(path.Base(group)) }
