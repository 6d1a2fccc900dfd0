package ctlog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"testing/synctest"
	"time"
)

// G7: what a log said of the time counts for a minute. A log without Date speaks in SCTs only, which nobody asks it for while
// nothing is issued: its last word must not stop the CA for ever. One that was not asked since may still say it again.
func TestOldWordIsNoWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var members []Member
		for _, name := range []string{"a", "b"} {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			r, err := OpenRemote(LogConfig{Name: name, URL: "https://ct.example.com/" + name}, RemoteOptions{
				PublicKeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
			})
			if err != nil {
				t.Fatal(err)
			}
			members = append(members, Member{Name: name, Key: r.Key(), Submitter: r})
		}
		s, err := New(Options{Members: members})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Wait()
		a, b := s.members[0], s.members[1]
		s.heardNothing(b)
		for n := range enough {
			if s.Clock() != nil {
				t.Fatalf("stopped by %d SCTs", n)
			}
			s.hear(a, true, 2*time.Minute)
		}
		if s.Clock() == nil {
			t.Fatal("not stopped")
		}
		time.Sleep(lately - time.Second)
		if s.heardNothing(b); s.Clock() == nil {
			t.Fatal("lifted while the word of a counts")
		}
		time.Sleep(2 * time.Second)
		if s.heardNothing(b); s.Clock() == nil {
			t.Fatal("lifted, and a was not asked again")
		}
		if s.heardNothing(a); s.Clock() != nil {
			t.Error(s.Clock())
		}
	})
}
