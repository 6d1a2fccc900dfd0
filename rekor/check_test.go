package rekor_test

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"slices"
	"testing"

	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"

	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Each entry that was logged passes the check, and none whose signature, digest or form was changed.
func TestCheckEntry(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	url, _ := serve(t, rekor.Options{Log: l})
	client, err := write.NewWriter(url)
	must(t, err)
	for name, r := range map[string]request{
		"P-256":     p256(),
		"Ed25519ph": {key: pki.NewKey(pki.Ed25519), details: v1.PublicKeyDetails_PKIX_ED25519_PH},
		"RSA":       {key: pki.NewKey(pki.RSA2048), details: v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256},
	} {
		_, err := client.Add(t.Context(), r.hashed(t, name))
		must(t, err)
	}
	old := newV1(t, rekor.Options{}, rekor.V1{})
	old.post(t, p256().hashedV1(t, "one"))
	leaves := slices.Concat(l.leaves, old.leaves)
	if len(leaves) != 4 {
		t.Fatalf("%d entries", len(leaves))
	}
	signature := regexp.MustCompile(`"content":"([A-Za-z0-9+/=]{80,})"`)
	for i, leaf := range leaves {
		e, err := rekor.CheckEntry(t.Context(), leaf)
		if err != nil {
			t.Errorf("entry %d: %v", i, err)
			continue
		}
		at := signature.FindSubmatchIndex(leaf)
		raw, err := base64.StdEncoding.DecodeString(string(leaf[at[2]:at[3]]))
		must(t, err)
		raw[len(raw)-1] ^= 1
		changed := bytes.Clone(leaf)
		base64.StdEncoding.Encode(changed[at[2]:at[3]], raw)
		for what, bad := range map[string][]byte{
			"signature": changed, "form": append(bytes.Clone(leaf), ' '), "nothing": nil,
		} {
			if _, err := rekor.CheckEntry(t.Context(), bad); err == nil {
				t.Errorf("entry %d of kind %s: a changed %s is not found", i, e.Kind, what)
			}
		}
	}
}
