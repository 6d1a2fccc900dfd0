package pkcs11

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// BenchmarkSocket measures signatures through the guard, the protocol and a mayfly-hsm that runs: MAYFLY_HSM_SOCKET is
// its socket, MAYFLY_HSM_KEY the name of the key, and MAYFLY_HSM_CALLERS how many sign at once (default: 16).
func BenchmarkSocket(b *testing.B) {
	socket := os.Getenv("MAYFLY_HSM_SOCKET")
	if socket == "" {
		b.Skip("MAYFLY_HSM_SOCKET is not set")
	}
	callers, err := strconv.Atoi(cmp.Or(os.Getenv("MAYFLY_HSM_CALLERS"), "16"))
	if err != nil {
		b.Fatal(err)
	}
	s := &Settings{Socket: socket, Key: os.Getenv("MAYFLY_HSM_KEY")}
	k, err := s.open(b.Context(), signer.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer k.close() //nolint:errcheck // nothing is written
	guarded := k.guard.Signer(k)
	digest := sha256.Sum256([]byte("benchmark"))
	b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := guarded.SignContext(b.Context(), digest[:], crypto.SHA256); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}
