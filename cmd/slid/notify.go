package main

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/slid-agent/slid/internal/verdict"
)

// A notifier tells systemd how the service fares (sd_notify(3)). Without systemd it does nothing.
type notifier struct {
	log      *slog.Logger
	pause    time.Duration // between two messages: each is a socket and a few allocations
	watchdog bool          // systemd waits for signs of life
	last     time.Time
	status   string
	verdicts func() []verdict.Verdict // nil until the pipeline runs
}

func newNotifier(log *slog.Logger) *notifier {
	n := &notifier{log: log, pause: 5 * time.Second}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog is not fed", "error", err)
	}
	if watchdog > 0 {
		n.watchdog, n.pause = true, min(watchdog/3, n.pause)
	}
	return n
}

func (n *notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Debug("systemd was not notified", "error", err)
	}
}

// ready says that the service has started. It comes before the probes are loaded: that may take longer than systemd
// waits for a start on a slow machine, and a service that does not depend on a kernel is up without them.
func (n *notifier) ready() { n.send(daemon.SdNotifyReady + "\nSTATUS=loading probes") }

// reloading says that the service reads its configuration anew; ready ends that (Type=notify-reload).
func (n *notifier) reloading(now time.Duration) {
	n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Microseconds()))
}

func (n *notifier) stopping() { n.send(daemon.SdNotifyStopping + "\nSTATUS=sending what is queued") }

// progress feeds the watchdog and tells the state of the sources when it has changed. Only the work itself calls it:
// a process that hangs must not look alive.
func (n *notifier) progress() {
	now := time.Now()
	if now.Sub(n.last) < n.pause {
		return
	}
	n.last = now
	if n.watchdog {
		n.send(daemon.SdNotifyWatchdog)
	}
	if n.verdicts == nil {
		return
	}
	if s := summary(n.verdicts()); s != n.status {
		n.status = s
		n.send("STATUS=" + s)
	}
}

// summary returns e.g. "6 sources active; unavailable: latency/runqueue".
func summary(list []verdict.Verdict) string {
	active, names := 0, map[verdict.State][]string{}
	for _, v := range list {
		if v.State == verdict.Active {
			active++
			continue
		}
		names[v.State] = append(names[v.State], v.Name)
	}
	var b strings.Builder
	b.WriteString(plural(active, "source") + " active")
	for _, state := range []verdict.State{verdict.Degraded, verdict.Unavailable} {
		if len(names[state]) > 0 {
			b.WriteString("; " + string(state) + ": " + strings.Join(names[state], ", "))
		}
	}
	return b.String()
}
