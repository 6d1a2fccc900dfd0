package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// asker asks questions at the terminal.
type asker struct {
	in  io.Reader
	out io.Writer // not standard output, which has only results
}

func newAsker(cmd *cobra.Command) *asker { return &asker{cmd.InOrStdin(), cmd.ErrOrStderr()} }

// possible reports whether the input is a terminal.
func (a *asker) possible() bool { return terminal.IsTerminal(a.in) }

// maxAnswer is the length of the longest answer, in bytes.
const maxAnswer = 4096

// ask returns an answer, or the fallback for an empty line.
func (a *asker) ask(question, fallback string) (string, error) {
	prompt := question + ": "
	if fallback != "" {
		prompt = question + " [" + fallback + "]: "
	}
	if _, err := io.WriteString(a.out, prompt); err != nil {
		return "", err
	}
	var line []byte
	// one byte at a time, so that no byte of the next answer is read
	for one := make([]byte, 1); len(line) < maxAnswer; {
		if _, err := a.in.Read(one); err != nil {
			return "", errors.New("the input ended before all questions were answered; nothing was written")
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	answer := strings.TrimSpace(string(line))
	if answer == "" {
		answer = fallback
	}
	return answer, nil
}

// confirm asks a question that only "yes" answers.
func (a *asker) confirm(question string) error {
	answer, err := a.ask(question+" Type yes to continue", "")
	if err == nil && answer != "yes" {
		err = errors.New("nothing was written: the answer was not yes")
	}
	return err
}

func (a *asker) secret(prompt string) ([]byte, error) {
	return terminal.ReadSecret(a.in, a.out, prompt)
}

// minPassword is the length of the shortest password that is accepted from a terminal, in bytes.
const minPassword = 12

// newPassword asks for a password twice, until both answers agree.
func (a *asker) newPassword(what string) ([]byte, error) {
	for range 3 {
		first, err := a.secret(fmt.Sprintf("%s (at least %d characters): ", what, minPassword))
		if err != nil {
			return nil, err
		}
		if len(first) < minPassword {
			fmt.Fprintf(a.out, "The password has fewer than %d characters.\n", minPassword)
			continue
		}
		second, err := a.secret("Repeat the password: ")
		if err != nil {
			return nil, err
		}
		if bytes.Equal(first, second) {
			return first, nil
		}
		fmt.Fprintln(a.out, "The two passwords differ.")
	}
	return nil, errors.New("no password after three attempts; nothing was written")
}
