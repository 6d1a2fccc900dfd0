package file

import (
	"bytes"
	"crypto/mldsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Of the three forms of an ML-DSA key (RFC 9881 §6) the seed is read; the two others are refused with the command that
// converts them.
func TestMLDSAForms(t *testing.T) {
	t.Parallel()
	for kind, arc := range map[pki.KeyType]int{pki.MLDSA44: 17, pki.MLDSA65: 18, pki.MLDSA87: 19} {
		key := pki.NewKey(kind).(*mldsa.PrivateKey) //nolint:forcetypeassert // of this kind
		expanded := bytes.Repeat([]byte{1}, 2560)
		both, err := asn1.Marshal(struct{ Seed, Expanded []byte }{key.Bytes(), expanded})
		if err != nil {
			t.Fatal(err)
		}
		alone, err := asn1.Marshal(expanded)
		if err != nil {
			t.Fatal(err)
		}
		for what, one := range map[string]struct {
			private []byte
			want    string
		}{
			"seed":     {append([]byte{0x80, 32}, key.Bytes()...), ""},
			"expanded": {alone, "the expanded key alone"},
			"both":     {both, "both the seed and the expanded key"},
			"neither":  {[]byte{5, 0}, "cannot be parsed"},
		} {
			der, err := asn1.Marshal(struct {
				Version   int
				Algorithm struct{ ID asn1.ObjectIdentifier }
				Private   []byte
			}{
				0,
				struct{ ID asn1.ObjectIdentifier }{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, arc}},
				one.private,
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseKey(KeyOptions{Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})})
			switch {
			case one.want == "":
				if err != nil || !key.PublicKey().Equal(got.Public()) {
					t.Errorf("%s, %s: %v", kind, what, err)
				}
				again, e := x509.MarshalPKCS8PrivateKey(key)
				if e != nil || !bytes.Equal(again, der) {
					t.Errorf("%s: another encoding: %v", kind, e)
				}
			case !strings.Contains(fmt.Sprint(err), one.want):
				t.Errorf("%s, %s: %v", kind, what, err)
			case what != "neither" && !strings.Contains(fmt.Sprintf("%+v", err), "seed"):
				t.Errorf("%s, %s: %v does not name the form that is read", kind, what, err)
			}
		}
	}
}
