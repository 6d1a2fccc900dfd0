package trust

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// keyTarget is a file with certificates or a key, for clients that do not read the trusted root, such as gitsign. They
// find the files by the member "sigstore" of the custom metadata of the target.
type keyTarget struct {
	data   []byte
	usage  string // Fulcio, CTFE or Rekor
	status string // Active or Expired
}

// keyTargetName matches the names of these files.
var keyTargetName = regexp.MustCompile(`^(fulcio(_v1)?\.crt\.pem|(ctfe|rekor)(_[0-9]+)?\.pub)$`)

// keyTargets returns the files that belong to a trusted root. Keys of logs of signatures are listed only if they are
// ECDSA keys, because these clients support no other key.
func keyTargets(root []byte, now time.Time) (map[string]keyTarget, error) {
	m, err := ParseTrustedRoot(root)
	if err != nil {
		return nil, err
	}
	out := map[string]keyTarget{}
	var certificates []byte
	seen := map[[32]byte]bool{}
	for _, a := range m.Authorities {
		for _, c := range a.Chain {
			if sum := sha256.Sum256(c.Raw); !seen[sum] {
				seen[sum] = true
				certificates = append(certificates,
					pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
			}
		}
	}
	// cosign 2 and policy-controller look for the second name if they do not read the metadata
	for _, name := range []string{"fulcio.crt.pem", "fulcio_v1.crt.pem"} {
		out[name] = keyTarget{certificates, "Fulcio", "Active"}
	}
	add := func(prefix, usage string, all []Log) error {
		number := 0
		for _, l := range all {
			if _, ok := l.Key.(*ecdsa.PublicKey); !ok && usage == "Rekor" {
				continue
			}
			der, err := x509.MarshalPKIXPublicKey(l.Key)
			if err != nil {
				return err
			}
			status := "Active"
			if !l.NotAfter.IsZero() && l.NotAfter.Before(now) {
				status = "Expired"
			}
			name := prefix + ".pub"
			if number++; number > 1 {
				name = fmt.Sprintf("%s_%d.pub", prefix, number)
			}
			out[name] = keyTarget{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), usage, status}
		}
		return nil
	}
	if err := add("ctfe", "CTFE", m.Logs); err != nil {
		return nil, err
	}
	return out, add("rekor", "Rekor", m.Rekor)
}

// setTargets adds files to the metadata of targets and to the change. A trusted root brings its [keyTargets], which
// replace those of the former one. It returns every file, by the name that clients look for.
func (r *Repository) setTargets(files map[string][]byte) (map[string][]byte, error) {
	keys := map[string]keyTarget{}
	if root, ok := files[rootTarget]; ok {
		var err error
		if keys, err = keyTargets(root, r.o.Now()); err != nil {
			return nil, err
		}
		maps.DeleteFunc(r.targets.Signed.Targets, func(name string, _ *metadata.TargetFiles) bool {
			return keyTargetName.MatchString(name)
		})
	}
	all := maps.Clone(files)
	for name, k := range keys {
		all[name] = k.data
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		target, err := metadata.TargetFile().FromBytes(name, all[name], "sha256")
		if err != nil {
			return nil, err
		}
		if k, ok := keys[name]; ok {
			custom, err := json.Marshal(map[string]any{"sigstore": map[string]string{
				"usage": k.usage, "status": k.status,
			}})
			if err != nil {
				return nil, err
			}
			target.Custom = (*json.RawMessage)(&custom)
		}
		r.targets.Signed.Targets[name] = target
		sum := sha256.Sum256(all[name])
		r.change.files[targetFile(hex.EncodeToString(sum[:]), name)] = all[name]
	}
	return all, nil
}
