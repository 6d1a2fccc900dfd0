package matrix

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Need is a program, or a part of one, that a test needs and that the system's package manager installs.
type Need struct {
	Name    string   // of the program
	Debian  string   // the package of Debian and Ubuntu that has it
	Command []string // succeeds where it is installed; nil: the program is on PATH
}

var needs = []Need{
	{Name: "cargo", Debian: "cargo"},
	{Name: "etcd", Debian: "etcd-server"},
	{Name: "git", Debian: "git"},
	{Name: "haproxy", Debian: "haproxy"},
	{Name: "java", Debian: "default-jdk-headless"},
	{Name: "keytool", Debian: "default-jdk-headless"},
	{Name: "mvn", Debian: "maven"},
	{Name: "nginx", Debian: "nginx-light"},
	{Name: "node", Debian: "nodejs"},
	{Name: "npm", Debian: "npm"},
	{Name: "promtool", Debian: "prometheus"},
	{Name: "python3", Debian: "python3"},
	{Name: "python3 -m venv", Debian: "python3-venv", Command: []string{"python3", "-c", "import ensurepip, venv"}},
}

// Operations are the names of what the tests of operations need, which run with "make e2e".
func Operations() []string {
	return []string{"haproxy", "nginx", "promtool", "python3", "python3 -m venv"}
}

// NeedsOf returns the names of what clients need.
func NeedsOf(clients []Client) []string {
	var out []string
	for _, c := range clients {
		out = append(out, c.Needs...)
	}
	return out
}

// Install makes sure that this machine has the programs with these names. As root on Debian or Ubuntu it installs them
// with the package manager; elsewhere its error lists what is missing.
func Install(ctx context.Context, out io.Writer, names []string) error {
	lacks := missing(names, present(ctx))
	if len(lacks) == 0 {
		return nil
	}
	line := "apt-get update && apt-get install -y --no-install-recommends " + strings.Join(Packages(lacks), " ")
	if _, err := exec.LookPath("apt-get"); err == nil && os.Geteuid() == 0 {
		fmt.Fprintf(out, "e2e: not on this machine: %s; running: %s\n", Names(lacks), line)
		cmd := exec.CommandContext(ctx, "sh", "-c", line) //nolint:gosec // names of our own table
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(out, "e2e: apt-get:", err)
		}
		lacks = missing(names, present(ctx))
	}
	if len(lacks) > 0 {
		return fmt.Errorf("not on this machine: %s; on Debian or Ubuntu, run as root: %s", Names(lacks), line)
	}
	return nil
}

// present returns whether a program is on this machine.
func present(ctx context.Context) func(Need) bool {
	return func(n Need) bool {
		if n.Command == nil {
			_, err := exec.LookPath(n.Name)
			if err != nil { // a server may be where only root looks
				_, err = exec.LookPath("/usr/sbin/" + n.Name)
			}
			return err == nil
		}
		return exec.CommandContext(ctx, n.Command[0], n.Command[1:]...).Run() == nil
	}
}

// missing returns what of names this machine does not have, each once.
func missing(names []string, installed func(Need) bool) []Need {
	var out []Need
	for _, n := range needs {
		if slices.Contains(names, n.Name) && !installed(n) {
			out = append(out, n)
		}
	}
	return out
}

// Packages lists the Debian packages of needs, each once.
func Packages(missing []Need) []string {
	var out []string
	for _, n := range missing {
		out = append(out, n.Debian)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Names joins the names of needs for a message.
func Names(missing []Need) string {
	var out []string
	for _, n := range missing {
		out = append(out, n.Name)
	}
	return strings.Join(out, ", ")
}
