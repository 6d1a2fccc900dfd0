package mayfly_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

// Each configuration of deploy is accepted, and has no warning but those that belong to its set-up.
func TestSamples(t *testing.T) {
	t.Parallel()
	for dir, expected := range map[string][]string{
		"one-machine":    nil,
		"three-machines": {"listen.admin"}, // the balancer asks this listener; a firewall is in front
	} {
		path := filepath.Join("deploy", dir, "mayfly.yaml")
		warnings, err := config.Draft{
			Path: path, Main: []byte(readDoc(t, path)),
			Issuers: []byte(readDoc(t, filepath.Join("deploy", dir, "identity.yaml"))),
		}.Review()
		if err != nil {
			t.Error(err)
		}
		var unexpected []string
		for _, w := range warnings {
			if !slices.ContainsFunc(expected, func(key string) bool { return strings.Contains(w.String(), key) }) {
				unexpected = append(unexpected, w.String())
			}
		}
		if len(unexpected) > 0 || len(warnings) != len(expected) {
			t.Errorf("%s: %d warnings; unexpected: %q", path, len(warnings), unexpected)
		}
	}
}

// Each directory of deploy is in its table of contents, and each file that the table names exists.
func TestDeployContents(t *testing.T) {
	t.Parallel()
	page := readDoc(t, "deploy/README.md")
	entries, err := os.ReadDir("deploy")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.Contains(page, "`"+e.Name()+"/") {
			t.Errorf("deploy/README.md does not name %s", e.Name())
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("deploy", m[1])); err != nil {
			t.Error(err)
		}
	}
}

// The unit ends a process later than the process needs to end by itself, restarts it if its watchdog bites, and cannot
// write anything but the state. The socket has the name that the configurations use.
func TestUnits(t *testing.T) {
	t.Parallel()
	unit, socket := readDoc(t, "deploy/systemd/mayfly.service"), readDoc(t, "deploy/systemd/mayfly.socket")
	for _, line := range []string{
		"Type=notify", "WatchdogSec=30", "Restart=on-failure", "RestartPreventExitStatus=2", "TimeoutStopSec=60",
		"User=mayfly", "ProtectSystem=strict", "NoNewPrivileges=yes", "MemoryDenyWriteExecute=yes", "UMask=0077",
		"StateDirectory=mayfly", "SystemCallFilter=@system-service", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
		"ConditionPathExists=/etc/mayfly/mayfly.yaml",
		"ExecStart=/usr/bin/mayfly serve --config /etc/mayfly/mayfly.yaml $MAYFLY_OPTIONS",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("mayfly.service has no line %s", line)
		}
	}
	if strings.Contains(unit, "ReadWritePaths=/") {
		t.Error("mayfly.service can write more than its state")
	}
	name := regexp.MustCompile(`(?m)^FileDescriptorName=(.*)$`).FindStringSubmatch(socket)
	for _, dir := range []string{"one-machine", "three-machines"} {
		text := readDoc(t, "deploy/"+dir+"/mayfly.yaml")
		if len(name) != 2 || strings.Count(text, ": "+config.SystemdPrefix+name[1]+"\n") != 2 {
			t.Errorf("deploy/%s/mayfly.yaml does not use the socket %q", dir, name)
		}
	}
}
