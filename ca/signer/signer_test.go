package signer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// A key service is probed at most once in ten seconds, however often readiness looks.
func TestUsable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		probes, down := 0, errors.New("down")
		var state error
		k := &signer.Key{Probe: func(ctx context.Context) error {
			probes++
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the probe has no deadline")
			}
			return state
		}}
		for range 5 {
			if err := k.Usable(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if state = down; k.Usable(t.Context()) != nil || probes != 1 {
			t.Errorf("%d probes", probes)
		}
		time.Sleep(11 * time.Second)
		if err := k.Usable(t.Context()); !errors.Is(err, down) || probes != 2 {
			t.Errorf("%v after %d probes", err, probes)
		}
	})
	if k := new(signer.Key); k.Remote() || k.Usable(t.Context()) != nil {
		t.Error("a key in this process cannot fail")
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	n := 0
	k := &signer.Key{Release: func() error { n++; return errors.New("x") }}
	if k.Close() == nil || k.Close() != nil || n != 1 {
		t.Errorf("released %d times", n)
	}
	if (*signer.Key)(nil).Close() != nil || new(signer.Key).Close() != nil {
		t.Error("there is nothing to release")
	}
}

// notOpened has a chain in a file and fails the test if the key is opened.
type notOpened struct {
	t    *testing.T
	file string
}

func (notOpened) Check() error        { return nil }
func (notOpened) Temporary() bool     { return false }
func (b notOpened) ChainFile() string { return b.file }
func (b notOpened) Open(context.Context, signer.Options) (*signer.Key, error) {
	b.t.Error("the key was opened")
	return nil, errors.New("no key")
}

// A chain that cannot be used is found before the key is opened, and named by its setting.
func TestChainFirst(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "chain.pem")
	for _, content := range []string{"", "junk"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := signer.Open(t.Context(), notOpened{t, file}, signer.Options{})
		if err == nil || !strings.HasPrefix(err.Error(), "chain: "+file+": ") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := os.WriteFile(file, pki.New(pki.Options{}).ChainPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if chain, err := signer.ReadChain(file); err != nil || len(chain) != 2 {
		t.Errorf("%d certificates, %v", len(chain), err)
	}
}
