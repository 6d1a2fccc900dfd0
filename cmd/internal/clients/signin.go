package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sigstore/sigstore/pkg/oauthflow"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

// tokenEnv is the environment variable in which Sigstore clients look for an ID token.
const tokenEnv = "SIGSTORE_ID_TOKEN"

// signIn selects the source of an ID token.
type signIn struct {
	file     string // --token-file; "-" is standard input
	issuer   string // --issuer, for the interactive sign-in
	clientID string
	device   bool // the device flow instead of a browser on this machine
}

// token returns an ID token: from the named file, from SIGSTORE_ID_TOKEN, from a pipe on standard input, or from a
// sign-in.
func (s signIn) token(ctx context.Context, std cli.Streams, c *client.Client) (string, error) {
	if s.file != "" {
		return ReadToken(std.In, s.file)
	}
	if t := strings.TrimSpace(os.Getenv(tokenEnv)); t != "" {
		return t, nil
	}
	if isPiped(std.In) && s.issuer == "" {
		return ReadToken(std.In, "-")
	}
	issuer, err := s.provider(ctx, c)
	if err != nil {
		return "", err
	}
	return s.interactive(ctx, std.Err, issuer)
}

// ReadToken reads an ID token from a file or, for "-", from standard input.
func ReadToken(stdin io.Reader, name string) (string, error) {
	data, err := input.Read(stdin, name)
	if name == "-" {
		name = "standard input"
	}
	if err != nil {
		return "", fmt.Errorf("identity token from %s: %w", name, err)
	}
	t := strings.TrimSpace(string(data))
	if strings.Count(t, ".") != 2 || strings.ContainsAny(t, " \t\r\n") {
		return "", fmt.Errorf("identity token from %s: not a compact JWT (three parts separated by dots)", name)
	}
	return t, nil
}

// isPiped reports whether standard input is a pipe or a file, and not a terminal or the null device.
func isPiped(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return in != nil
	}
	info, err := f.Stat()
	return err == nil && (info.Mode()&os.ModeNamedPipe != 0 || info.Mode().IsRegular())
}

// provider returns the issuer to sign in at: that of --issuer, or the first e-mail issuer that the CA accepts.
func (s signIn) provider(ctx context.Context, c *client.Client) (string, error) {
	if s.issuer != "" {
		return s.issuer, nil
	}
	issuers, err := c.Configuration(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the CA for its issuers: %w", err)
	}
	for _, i := range issuers {
		if i.Type == "email" && !i.Wildcard {
			return i.URL, nil
		}
	}
	return "", errors.New("no identity token, and the CA accepts no issuer of type email to sign in at; " +
		"use --token-file or set " + tokenEnv)
}

// interactive returns the ID token of an interactive sign-in.
func (s signIn) interactive(ctx context.Context, out io.Writer, issuer string) (string, error) {
	fmt.Fprintf(out, "Signing in at %s\n", terminal.Printable(issuer))
	var flow oauthflow.TokenGetter = &oauthflow.InteractiveIDTokenGetter{
		HTMLPage: "<!doctype html><title>mayfly</title><p>Signed in. You can close this page.",
		Input:    os.Stdin, Output: out,
	}
	if s.device {
		flow = oauthflow.NewDeviceFlowTokenGetterForIssuer(issuer)
	}
	type answer struct {
		token string
		err   error
	}
	done := make(chan answer, 1)
	go func() { // the library accepts no context, and an interrupt must not wait for the sign-in
		t, err := oauthflow.OIDConnect(issuer, s.clientID, "", "", flow)
		if err != nil {
			done <- answer{err: err}
			return
		}
		done <- answer{token: t.RawString}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return "", fmt.Errorf("sign in at %s: %w", issuer, a.err)
		}
		return a.token, nil
	case <-ctx.Done():
		return "", fmt.Errorf("sign in at %s: %w", issuer, ctx.Err())
	}
}
