package matrix

import (
	"context"
	"os/exec"
	"slices"
	"strings"
)

// Need is a program, or a part of one, that a client needs and that the system's package manager installs.
type Need struct {
	Name    string   // of the program
	Debian  string   // the package of Debian and Ubuntu that has it
	Command []string // succeeds where it is installed; nil: the program is on PATH
}

var needs = []Need{
	{Name: "cargo", Debian: "cargo"},
	{Name: "etcd", Debian: "etcd-server"},
	{Name: "git", Debian: "git"},
	{Name: "java", Debian: "default-jdk-headless"},
	{Name: "keytool", Debian: "default-jdk-headless"},
	{Name: "mvn", Debian: "maven"},
	{Name: "node", Debian: "nodejs"},
	{Name: "npm", Debian: "npm"},
	{Name: "python3", Debian: "python3"},
	{Name: "python3 -m venv", Debian: "python3-venv", Command: []string{"python3", "-c", "import ensurepip, venv"}},
	{Name: "redis-server", Debian: "redis-server"},
}

// Missing returns what clients need and this machine does not have, each once.
func Missing(ctx context.Context, clients []Client) []Need {
	return missing(clients, func(n Need) bool {
		if n.Command == nil {
			_, err := exec.LookPath(n.Name)
			return err == nil
		}
		return exec.CommandContext(ctx, n.Command[0], n.Command[1:]...).Run() == nil
	})
}

func missing(clients []Client, installed func(Need) bool) []Need {
	var out []Need
	for _, n := range needs {
		wanted := slices.ContainsFunc(clients, func(c Client) bool { return slices.Contains(c.Needs, n.Name) })
		if wanted && !installed(n) {
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
