//go:build packages

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// The packages are made twice from one binary: the second one is the upgrade.
const oldVersion, newVersion = "0.9.0", "0.9.1"

// packageFormat is what a format of packages is called, and how its packages are installed.
type packageFormat struct {
	name        string
	environment string // the file of the configuration
	file        func(version string) string
	// install installs a package or upgrades to it, remove removes it.
	install, remove string
	// installed prints the version.
	installed string
}

var packageFormats = []packageFormat{
	{
		"deb", "/etc/default/mayfly", func(v string) string { return "mayfly_" + v + "_amd64.deb" },
		"dpkg --force-confold -i", "dpkg -r mayfly", "dpkg-query -W -f '${Version}' mayfly",
	},
	{
		"rpm", "/etc/sysconfig/mayfly", func(v string) string { return "mayfly-" + v + "-1.x86_64.rpm" },
		// This machine's own files are those of dpkg, so rpm knows of no other package.
		"rpm -U --nodeps", "rpm -e --nodeps mayfly", "rpm -q --queryformat '%{VERSION}' mayfly",
	},
}

// machine is a machine with systemd: a container over a copy of this one, in which nothing of mayfly is installed.
type machine struct {
	*lab.Lab
	leader int // the process ID of its systemd
}

// packages builds the packages of both versions, or returns the directory in the environment variable MAYFLY_PACKAGES.
func packages(l *lab.Lab) string {
	l.Helper()
	if dir := os.Getenv("MAYFLY_PACKAGES"); dir != "" {
		return dir
	}
	out := l.Mkdir("packages")
	root, err := filepath.Abs("..")
	if err != nil {
		l.Fatal(err)
	}
	for _, v := range []string{oldVersion, newVersion} {
		cmd := exec.CommandContext(l.Context(), "go", "run", "./cmd/package", "-repository", root,
			"-binary", l.Look("mayfly"),
			"-version", v, "-time", "2026-11-30T23:00:00Z", "-out", out)
		cmd.Dir = filepath.Join(root, "release")
		if text, err := cmd.CombinedOutput(); err != nil {
			l.Fatalf("%v: %s", err, text)
		}
	}
	return out
}

// boot starts a machine. The directory share is /opt/share in it.
func boot(l *lab.Lab, share string) *machine {
	l.Helper()
	for _, program := range []string{"unshare", "systemd-nspawn", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			l.Skipf("%s is not on this machine (apt-get install systemd-container)", program)
		}
	}
	if os.Geteuid() != 0 {
		l.Skip("only root can start a machine in a container")
	}
	// Everything that the machine writes is in memory, and gone with the mount namespace.
	const script = `set -e
mount -t tmpfs -o size=3G tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
rm -f root/etc/machine-id root/usr/sbin/policy-rc.d # which keeps services of new packages from being started
printf '%032x\n' 4242 > root/etc/machine-id
echo '127.0.0.1 localhost ca.example.com' > root/etc/hosts
cp -r "$2" root/opt/share
exec systemd-nspawn --quiet --directory root --register=no --keep-unit --private-network \
	--boot systemd.unit=multi-user.target`
	p := l.Spawn("machine", lab.Command{
		Name: "unshare", Args: []string{"-m", "sh", "-c", script, "sh", l.Mkdir("machine"), share},
	})
	m := &machine{Lab: l}
	l.Eventually("the machine has started", func(context.Context) error {
		var err error
		if m.leader, err = child(p.PID()); err != nil {
			return err
		}
		out, _ := m.try("systemctl is-system-running")
		if s := strings.TrimSpace(out); s != "running" && s != "degraded" { // a unit of this machine may need a device
			return errors.New(s)
		}
		return nil
	})
	l.Cleanup(func() {
		_ = syscall.Kill(m.leader, syscall.SIGKILL) // its whole process tree ends
	})
	return m
}

// child returns the only child of a process.
func child(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// enter returns a command in the machine.
func (m *machine) enter(script string) *exec.Cmd {
	//nolint:noctx // it ends with the machine
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net", "--pid",
		"--root", "--wd", "sh", "-c", script)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive",
	}
	return cmd
}

func (m *machine) try(script string) (string, error) {
	var out bytes.Buffer
	cmd := m.enter(script)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// run runs commands in the machine and returns their output, without surrounding space.
func (m *machine) run(script string) string {
	m.Helper()
	out, err := m.try("set -e\n" + script)
	if err != nil {
		journal, _ := m.try("systemctl status --no-pager mayfly.service mayfly.socket; " +
			"journalctl -n 40 --no-pager -u mayfly -u nginx")
		m.Fatalf("%s: %v: %s\n%s", script, err, out, journal)
	}
	return strings.TrimSpace(out)
}

// want runs commands in the machine and compares their output.
func (m *machine) want(want, script string) {
	m.Helper()
	if out := m.run(script); out != want {
		m.Errorf("%s: %q, want %q", script, out, want)
	}
}

// ready waits until the server is.
func (m *machine) ready() {
	m.Helper()
	m.Eventually("the server is ready", func(context.Context) error {
		out, err := m.try("curl -sf http://127.0.0.1:2112/readyz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// clean checks that nothing of the package is left.
func (m *machine) clean(environment string) {
	m.Helper()
	m.want("", "ls -d /etc/mayfly /var/lib/mayfly /usr/bin/mayfly /usr/lib/systemd/system/mayfly.* "+environment+
		" /usr/share/doc/mayfly /etc/systemd/system/*/mayfly.* 2>/dev/null || true")
}

// TestPackages installs each package on a machine with systemd, where nothing of mayfly is: the server starts when it
// is configured, behind nginx with the sample of deploy/one-machine; an upgrade keeps the configuration and loses no
// request of clients that repeat none; removing the package keeps what nobody can make again.
func TestPackages(t *testing.T) {
	l := lab.Plain(t)
	share := packages(l)
	for _, f := range packageFormats {
		t.Run(f.name, func(t *testing.T) {
			one := l.For(t)
			m := boot(one, share)
			m.lifecycle(f)
		})
	}
}

func (m *machine) lifecycle(f packageFormat) {
	m.Helper()
	install := func(version string) string { return m.run(f.install + " /opt/share/" + f.file(version)) }
	m.clean(f.environment)

	// Installed, and not configured: nothing runs, nothing has failed.
	install(oldVersion)
	m.want(oldVersion, f.installed)
	m.want("mayfly mayfly 750", "stat -c '%U %G %a' /etc/mayfly")
	m.want("mayfly mayfly 750", "stat -c '%U %G %a' /var/lib/mayfly")
	m.want("root root 600", "stat -c '%U %G %a' "+f.environment)
	m.want("/usr/sbin/nologin", "getent passwd mayfly | cut -d: -f7")
	m.want("inactive", "systemctl is-active mayfly.service || true")
	m.run("systemctl start mayfly.service") // the condition is not met: no error
	m.want("inactive", "systemctl is-active mayfly.service || true")
	m.want("disabled", "systemctl is-enabled mayfly.socket || true")
	if f.name == "deb" {
		m.want("enabled", "systemctl is-enabled mayfly.service")
	}
	m.run("man -w mayfly-serve && man mayfly-ca-init | grep -q root-key.pem")
	m.want("serve",
		"mayfly __complete ser 2>/dev/null | head -1 | cut -f1; bash -n /usr/share/bash-completion/completions/mayfly")
	exposure := m.run("systemd-analyze security --no-pager mayfly.service | tail -1 | grep -o '[0-9][0-9]*[.][0-9]*'")
	if number, err := strconv.ParseFloat(exposure, 64); err != nil || number > 2 {
		m.Errorf("the exposure of the service is %s", exposure)
	}
	m.run(f.remove + " 2>&1")
	if f.name == "deb" {
		m.run("dpkg -P mayfly")
		m.want("", "getent passwd mayfly || true")
	} else {
		m.run("rm -f " + f.environment + "*")
	}
	m.clean(f.environment)

	// Configured as docs/packages.md says.
	install(oldVersion)
	m.run(`cp /usr/bin/mayfly /opt/mayfly # the client, which the upgrade does not replace
systemd-run --quiet --unit=idp --setenv=HOME=/root /opt/mayfly dev --dir /opt/dev --http 127.0.0.1:7555 --grpc off \
	--admin off
echo MAYFLY_CA_PASSWORD=of-the-lab >> ` + f.environment + `
export MAYFLY_CA_PASSWORD=of-the-lab
cd /
runuser -u mayfly -- mayfly init /etc/mayfly --state /var/lib/mayfly --url https://ca.example.com \
	--organization Example --issuer http://127.0.0.1:5556 --proxy --listen systemd:api --password-env MAYFLY_CA_PASSWORD
runuser -u mayfly -- mayfly ca init --dir /etc/mayfly/ca --organization Example --password-env MAYFLY_CA_PASSWORD
until curl -sf http://127.0.0.1:5556/.well-known/openid-configuration > /dev/null; do sleep 1; done`)
	m.proxy()
	m.run("systemctl daemon-reload && systemctl enable --quiet --now mayfly.socket && " +
		"systemctl enable --quiet --now mayfly")
	m.ready()
	m.run(`export MAYFLY_CA_PASSWORD=of-the-lab
cd /
runuser -u mayfly -- mayfly config check --config /etc/mayfly/mayfly.yaml
/opt/mayfly dev token --dir /opt/dev --email alice@example.com > /opt/token
runuser -u mayfly -- mayfly trust export --config /etc/mayfly/mayfly.yaml --url https://ca.example.com \
	--out /tmp/trust`)
	const request = "/opt/mayfly request --url https://ca.example.com --trusted-root /tmp/trust/trusted_root.json " +
		"--token-file /opt/token --out /tmp/cert.pem"
	m.run(request)
	m.want("mayfly", "ps -o user= -p $(systemctl show -P MainPID mayfly)")
	m.run("systemctl reload mayfly")
	m.ready()

	// Upgraded while clients send requests.
	before := m.run("systemctl show -P MainPID mayfly; sha256sum /etc/mayfly/*.yaml " + f.environment)
	stop, failures := m.load(request)
	install(newVersion)
	m.ready()
	time.Sleep(3 * time.Second)
	done, failed := stop(), failures()
	m.Logf("%s: %d requests during the upgrade, %d failed", f.name, done, len(failed))
	if len(failed) > 0 || done < 20 {
		m.Errorf("%d requests during the upgrade; failed: %q", done, failed)
	}
	m.want(newVersion, f.installed)
	after := m.run("systemctl show -P MainPID mayfly; sha256sum /etc/mayfly/*.yaml " + f.environment)
	pid1, sums1, _ := strings.Cut(before, "\n")
	pid2, sums2, _ := strings.Cut(after, "\n")
	if pid1 == pid2 || sums1 != sums2 {
		m.Errorf("before the upgrade:\n%s\nafter:\n%s", before, after)
	}

	// A service that the administrator stopped is not started by an upgrade, here one to the older version.
	m.run("systemctl stop mayfly.socket mayfly.service")
	m.run(strings.Replace(f.install, "rpm -U", "rpm -U --oldpackage", 1) + " /opt/share/" + f.file(oldVersion))
	m.want("inactive", "systemctl is-active mayfly.service || true")
	m.run("systemctl start mayfly.socket mayfly.service")
	m.ready()

	// Removed: what nobody can make again stays, and a new installation continues with it.
	records := m.run("wc -l < /var/lib/mayfly/journal/journal.jsonl")
	m.run(f.remove)
	m.want("inactive", "systemctl is-active mayfly.service || true")
	m.run("! ls /usr/bin/mayfly 2>/dev/null")
	m.run("ls /etc/mayfly/mayfly.yaml /etc/mayfly/ca/ca-key.pem /var/lib/mayfly/ct")
	if f.name == "rpm" { // rpm keeps a changed file beside its name, and the new package brings another one
		m.run("mv " + f.environment + ".rpmsave " + f.environment)
	}
	install(newVersion)
	m.run("systemctl daemon-reload; systemctl start mayfly.socket mayfly.service")
	m.ready()
	m.run("rm -f /tmp/cert.*; " + request)
	m.run("test $(wc -l < /var/lib/mayfly/journal/journal.jsonl) -gt " + records)
	m.run("runuser -u mayfly -- mayfly audit verify --config /etc/mayfly/mayfly.yaml")

	m.run(f.remove)
	if f.name == "deb" {
		out := m.run("dpkg -P mayfly 2>&1")
		if !strings.Contains(out, "keys, journal and logs are left in /etc/mayfly /var/lib/mayfly") {
			m.Errorf("purge says %q", out)
		}
		m.run("! ls " + f.environment + " 2>/dev/null")
		m.run("ls /etc/mayfly/ca/ca-key.pem /var/lib/mayfly/journal/journal.jsonl && getent passwd mayfly")
	}
}

// proxy starts nginx with the sample of deploy/one-machine.
func (m *machine) proxy() {
	m.Helper()
	certificate, key := serverPair(m.TB, "ca.example.com")
	sample := func(name string) string {
		data, err := os.ReadFile(filepath.Join("..", "deploy", "one-machine", name))
		if err != nil {
			m.Fatal(err)
		}
		return string(data)
	}
	for path, text := range map[string]string{
		"/etc/nginx/tls/tls.crt": certificate, "/etc/nginx/tls/tls.key": key,
		"/usr/local/share/ca-certificates/lab.crt":        certificate,
		"/etc/nginx/conf.d/mayfly.conf":                   sample("nginx.conf"),
		"/etc/systemd/system/mayfly.socket.d/listen.conf": sample("mayfly.socket.d/listen.conf"),
	} {
		cmd := m.enter("mkdir -p " + filepath.Dir(path) + " && cat > " + path)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			m.Fatalf("%s: %v: %s", path, err, out)
		}
	}
	m.run("rm -f /etc/nginx/sites-enabled/default; update-ca-certificates >/dev/null 2>&1; systemctl restart nginx")
}

// load sends requests for certificates and for the trust bundle, each over a new connection and once, until stop is
// called, which returns their number. failures returns what failed.
func (m *machine) load(request string) (stop func() int, failures func() []string) {
	m.Helper()
	m.run("rm -f /opt/go /opt/done.* /opt/failed.*; touch /opt/go")
	var running []*exec.Cmd
	for i := range 4 {
		send := "curl -sS --fail --max-time 30 -o /dev/null https://ca.example.com/api/v2/trustBundle"
		if i%2 == 1 {
			send = strings.Replace(request, "/tmp/cert.pem", fmt.Sprintf("/tmp/cert.%d.pem", i), 1)
		}
		cmd := m.enter(fmt.Sprintf("while test -e /opt/go; do rm -f /tmp/cert.%[1]d.*; if %[2]s > "+
			"/opt/last.%[1]d 2>&1; "+
			"then echo >> /opt/done.%[1]d; else tr '\\n' ' ' < /opt/last.%[1]d >> /opt/failed.%[1]d; "+
			"echo >> /opt/failed.%[1]d; fi; sleep 0.05; done", i, send))
		if err := cmd.Start(); err != nil {
			m.Fatal(err)
		}
		running = append(running, cmd)
	}
	time.Sleep(2 * time.Second)
	return func() int {
			m.run("rm -f /opt/go")
			for _, cmd := range running {
				if err := cmd.Wait(); err != nil {
					m.Error(err)
				}
			}
			n, err := strconv.Atoi(m.run("cat /opt/done.* | wc -l"))
			if err != nil {
				m.Fatal(err)
			}
			return n
		}, func() []string {
			return strings.FieldsFunc(m.run("cat /opt/failed.* 2>/dev/null || true"),
				func(r rune) bool { return r == '\n' })
		}
}
