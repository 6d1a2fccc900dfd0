package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

// The names of the two files, in the directory of the repository, that travel to the holder of the offline keys and
// back.
const (
	RequestName  = "request.json"
	ResponseName = "signed.json"
)

// MaxRequest is the size limit of a request and of a response in bytes.
const MaxRequest = 32 << 20

const (
	requestMediaType  = "application/vnd.mayfly.tuf-request+json;version=1"
	responseMediaType = "application/vnd.mayfly.tuf-signed+json;version=1"
)

// request asks the holder of the offline keys for signatures. It has no metadata to sign: the holder makes the metadata
// from the repository, which verifies, and from the files.
type request struct {
	MediaType  string            `json:"mediaType"`
	Repository map[string][]byte `json:"repository"`      // as [Repository.Files] returns it
	Files      map[string][]byte `json:"files,omitempty"` // to publish, by the name that clients look for
	Renew      []string          `json:"renew,omitempty"` // root, targets: their metadata expires soon
}

// response has the signed metadata, and the files that the metadata of targets names for the first time.
type response struct {
	MediaType string            `json:"mediaType"`
	Root      []byte            `json:"root,omitempty"`
	Targets   []byte            `json:"targets,omitempty"`
	Files     map[string][]byte `json:"files,omitempty"`
}

// Files returns the verified repository by file name: every root, the newest metadata of the other roles and each
// target.
func (r *Repository) Files() map[string][]byte { return maps.Clone(r.now) }

// HasKeys reports whether the private keys of all these roles are in the directory.
func (r *Repository) HasKeys(roles ...string) bool {
	return !slices.ContainsFunc(roles, func(role string) bool { return !r.hasKey(role) })
}

// Changed returns those of contents that differ from the published files.
func (r *Repository) Changed(contents ...[]byte) ([][]byte, error) {
	files, err := r.differing(contents)
	return slices.Collect(maps.Values(files)), err
}

// differing returns those of contents that differ from the published files, by the name that clients look for.
func (r *Repository) differing(contents [][]byte) (map[string][]byte, error) {
	files, err := named(contents)
	maps.DeleteFunc(files, func(name string, data []byte) bool {
		have, ok := r.Target(name)
		return ok && bytes.Equal(have, data)
	})
	return files, err
}

// Request returns a request to the holder of the keys of root and targets, for [ReviewRequest]: to publish those of
// contents that differ from the published files, and to renew metadata of these roles that expires soon and whose key
// is not in the directory. It returns nil if nothing must be signed.
func (r *Repository) Request(contents ...[]byte) ([]byte, error) {
	if err := r.reset(); err != nil {
		return nil, err
	}
	files, err := r.differing(contents)
	if err != nil {
		return nil, err
	}
	out := request{MediaType: requestMediaType, Repository: r.now, Files: files}
	if r.soon(roleRoot, r.root.Signed.Expires) && !r.hasKey(roleRoot) {
		out.Renew = append(out.Renew, roleRoot)
	}
	if r.soon(roleTargets, r.targets.Signed.Expires) && !r.hasKey(roleTargets) {
		out.Renew = append(out.Renew, roleTargets)
	}
	if len(out.Files) == 0 && len(out.Renew) == 0 {
		return nil, nil
	}
	data, err := json.MarshalIndent(out, "", " ")
	return append(data, '\n'), err
}

// Review is a verified request, for a person who decides whether to sign.
type Review struct {
	// Roles are the roles that sign: root, targets.
	Roles []string
	// Expires is until when the signed metadata is valid, by role.
	Expires map[string]time.Time
	// Changes describes each entry that a file gains ("+") or loses ("-"), in order. A changed entry is both.
	Changes []string

	r     *Repository
	files map[string][]byte
}

// signedDir has the metadata that the holder signed last, by role.
const signedDir = "keys/signed"

// ReviewRequest verifies a request with the anchor in Dir, which the holder of the offline keys keeps. The repository
// in the request MUST verify from the anchor and MUST NOT be older. Unless again is true, a repository that does not
// have what was signed last is refused, because a signature for older metadata could undo the last change.
func ReviewRequest(o TUFOptions, data []byte, again bool) (*Review, error) {
	v := &Review{r: newRepository(o), files: map[string][]byte{}, Expires: map[string]time.Time{}}
	if err := v.open(data, again); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	return v, nil
}

func (v *Review) open(data []byte, again bool) error {
	r := v.r
	in, err := parseRequest(data)
	if err != nil {
		return err
	}
	if err := r.recover(); err != nil {
		return err
	}
	anchor, err := r.readAnchor()
	if err != nil {
		return err
	}
	if len(anchor) == 0 {
		return fault.Cure(fmt.Errorf("%s is missing, so nothing shows whether the request is authentic", anchorDir),
			"copy keys/published from the machine that serves the repository, and compare its 1.root.json with the "+
				"1.root.json of clients")
	}
	if err := r.adopt(anchor); err != nil {
		return err
	}
	if r.now, err = r.follow(memory(in.Repository)); err != nil {
		return fmt.Errorf("the request is refused: its repository does not follow from %s: %w", anchorDir, err)
	}
	if err := r.parse(); err != nil {
		return err
	}
	if err := v.newest(again); err != nil {
		return err
	}
	if err := v.compare(in); err != nil {
		return err
	}
	if slices.Contains(in.Renew, roleRoot) {
		v.Roles = append(v.Roles, roleRoot)
	}
	if len(v.files) > 0 || slices.Contains(in.Renew, roleTargets) {
		v.Roles = append(v.Roles, roleTargets)
	}
	if len(v.Roles) == 0 {
		return errors.New("the request contains no change: every file is published already")
	}
	for _, role := range v.Roles {
		v.Expires[role] = r.until(role)
	}
	return nil
}

func parseRequest(data []byte) (request, error) {
	var in request
	if err := json.Unmarshal(data, &in); err != nil || in.MediaType != requestMediaType {
		return in, fmt.Errorf("not a request to sign: write the path of the %s of a repository", RequestName)
	}
	return in, nil
}

// newest returns an error if the request has an older version than the one that was signed last.
func (v *Review) newest(again bool) error {
	for _, role := range []string{roleRoot, roleTargets} {
		data, err := os.ReadFile(v.r.path(signedDir + "/" + role + ".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var last struct {
			Signed struct {
				Version int64 `json:"version"`
			} `json:"signed"`
		}
		if err := json.Unmarshal(data, &last); err != nil {
			return fmt.Errorf("%s/%s.json: %w", signedDir, role, err)
		}
		have := map[string]int64{roleRoot: v.r.root.Signed.Version, roleTargets: v.r.targets.Signed.Version}[role]
		if last.Signed.Version > have && !again {
			return fault.Cure(fmt.Errorf("version %d of %s was signed here before, and the request has version %d",
				last.Signed.Version, role, have), "publish the last response first; if it was lost, sign with --again")
		}
	}
	return nil
}

// compare describes what the files of the request change.
func (v *Review) compare(in request) error {
	for _, name := range slices.Sorted(maps.Keys(in.Files)) {
		data := in.Files[name]
		if want, err := targetName(data); err != nil || want != name {
			return errors.Join(fmt.Errorf("the request has a file %q that clients do not look for", name), err)
		}
		before, _ := v.r.Target(name)
		if bytes.Equal(before, data) {
			continue
		}
		v.files[name] = data
		have, err := describe(name, before)
		if err != nil {
			return err
		}
		want, err := describe(name, data)
		if err != nil {
			return err
		}
		found := false
		for _, line := range have {
			if !slices.Contains(want, line) {
				v.Changes, found = append(v.Changes, "- "+line), true
			}
		}
		for _, line := range want {
			if !slices.Contains(have, line) {
				v.Changes, found = append(v.Changes, "+ "+line), true
			}
		}
		if !found {
			v.Changes = append(v.Changes, fmt.Sprintf("~ %s has another encoding or order of the same entries", name))
		}
	}
	return nil
}

// describe returns a line for each entry of a trusted root or signing configuration. Each line ends with the beginning
// of a digest of the entry, so that entries that differ have different lines. A member that this version does not know
// is an error, because no line would show it.
func describe(name string, data []byte) ([]string, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var out []string
	add := func(m proto.Message, format string, args ...any) error {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		sum := sha256.Sum256(raw)
		out = append(out, fmt.Sprintf(format, args...)+" ["+hex.EncodeToString(sum[:8])+"]")
		return err
	}
	unknown := func(err error) error {
		return fmt.Errorf("%s has a member that this version cannot show: %w", name, err)
	}
	var errs []error
	if name == signingTarget {
		in := &trustroot.SigningConfig{}
		if err := protojson.Unmarshal(data, in); err != nil {
			return nil, unknown(err)
		}
		for _, list := range []struct {
			what string
			all  []*trustroot.Service
		}{
			{"CA", in.GetCaUrls()},
			{"OpenID Connect issuer", in.GetOidcUrls()},
			{"log of signatures", in.GetRekorTlogUrls()},
			{"timestamp authority", in.GetTsaUrls()},
		} {
			for _, s := range list.all {
				errs = append(errs, add(s, "signers use the %s %s, %s", list.what, s.GetUrl(),
					period(s.GetValidFor())))
			}
		}
		rest := proto.CloneOf(in)
		rest.CaUrls, rest.OidcUrls, rest.RekorTlogUrls, rest.TsaUrls = nil, nil, nil, nil
		errs = append(errs, add(rest, "how signers select services"))
		return out, errors.Join(errs...)
	}
	in := &trustroot.TrustedRoot{}
	if err := protojson.Unmarshal(data, in); err != nil {
		return nil, unknown(err)
	}
	for what, all := range map[string][]*trustroot.CertificateAuthority{
		"CA": in.GetCertificateAuthorities(), "timestamp authority": in.GetTimestampAuthorities(),
	} {
		for _, a := range all {
			parsed, err := parseAuthority(a)
			if err != nil {
				errs = append(errs, add(a, "%s %s, which this version cannot show: %v", what, a.GetUri(), err))
				continue
			}
			first, last := parsed.Chain[0], parsed.Chain[len(parsed.Chain)-1]
			errs = append(errs, add(a, "verifiers trust the %s %q (SHA-256 %x) under the root %q (SHA-256 %x), %s",
				what,
				first.Subject, sha256.Sum256(first.Raw), last.Subject, sha256.Sum256(last.Raw),
				period(a.GetValidFor())))
		}
	}
	for what, all := range map[string][]*trustroot.TransparencyLogInstance{
		"CT log": in.GetCtlogs(), "log of signatures": in.GetTlogs(),
	} {
		for _, l := range all {
			errs = append(errs, add(l, "verifiers trust the %s %s (SHA-256 of its key %x), %s", what, l.GetBaseUrl(),
				sha256.Sum256(l.GetPublicKey().GetRawBytes()), period(l.GetPublicKey().GetValidFor())))
		}
	}
	slices.Sort(out)
	return out, errors.Join(errs...)
}

func period(r *common.TimeRange) string {
	at := func(t *timestamppb.Timestamp) string { return t.AsTime().UTC().Format(time.RFC3339) }
	if r.GetEnd() == nil {
		return "from " + at(r.GetStart())
	}
	return "from " + at(r.GetStart()) + " to " + at(r.GetEnd())
}

// Sign signs the metadata and returns a response for [Repository.PublishSigned]. It records in the directory which
// repository the request had and what was signed.
func (v *Review) Sign() ([]byte, error) {
	r := v.r
	if err := r.reset(); err != nil {
		return nil, err
	}
	out := response{MediaType: responseMediaType}
	for _, role := range v.Roles {
		if err := v.sign(role, &out); err != nil {
			return nil, fmt.Errorf("nothing was signed: %w", err)
		}
	}
	data, err := json.MarshalIndent(out, "", " ")
	if err == nil {
		err = v.record(out)
	}
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

func (v *Review) sign(role string, out *response) error {
	r := v.r
	if role == roleRoot {
		if err := r.signRoot(r.root.Signed.Version + 1); err != nil {
			return err
		}
		out.Root = r.change.files[rootFile(r.root.Signed.Version)]
		next, err := metadata.Root().FromBytes(out.Root)
		if err != nil {
			return err
		}
		return r.root.VerifyDelegate(roleRoot, next)
	}
	var err error
	if out.Files, err = r.setTargets(v.files); err != nil {
		return err
	}
	if err := r.signTargets(); err != nil {
		return err
	}
	out.Targets = r.change.files[targetsFile(r.targets.Signed.Version)]
	next, err := metadata.Targets().FromBytes(out.Targets)
	if err != nil {
		return err
	}
	return r.root.VerifyDelegate(roleTargets, next)
}

// record makes the repository of the request the anchor, and stores what was signed.
func (v *Review) record(out response) error {
	r := v.r
	lock, err := r.lockUnchanged()
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the lock file has no content
	var c commitment
	c.replaceAnchor(r.anchor, r.now)
	for role, data := range map[string][]byte{roleRoot: out.Root, roleTargets: out.Targets} {
		if data != nil {
			c.Write = append(c.Write, commitWrite{signedDir + "/" + role + ".json", 0o600, data})
		}
	}
	if err := r.announce(c); err != nil {
		return err
	}
	return r.apply(c)
}

// PublishSigned publishes what the holder of the offline keys has signed, with new metadata of snapshot and timestamp.
// The signatures MUST verify with the newest root, and the versions MUST follow the published ones. It returns the
// names of the published files. After an error nothing is written.
func (r *Repository) PublishSigned(data []byte) ([]string, error) {
	if err := r.reset(); err != nil {
		return nil, err
	}
	var in response
	if err := json.Unmarshal(data, &in); err != nil || in.MediaType != responseMediaType {
		return nil, errors.New("not a response of \"mayfly trust tuf sign\"")
	}
	if len(in.Root) == 0 && len(in.Targets) == 0 {
		return nil, errors.New("the response has no signed metadata")
	}
	if err := r.takeRoot(in); err != nil {
		return nil, fmt.Errorf("nothing was written: %w", err)
	}
	names, err := r.takeTargets(in)
	if err != nil {
		return nil, fmt.Errorf("nothing was written: %w", err)
	}
	return names, r.finish(r.signSnapshot, r.signTimestamp)
}

func (r *Repository) takeRoot(in response) error {
	if len(in.Root) == 0 {
		return nil
	}
	next, err := metadata.Root().FromBytes(in.Root)
	if err != nil {
		return fmt.Errorf("the signed metadata of root: %w", err)
	}
	if err := follows(roleRoot, next.Signed.Version, r.root.Signed.Version); err != nil {
		return err
	}
	if err := r.root.VerifyDelegate(roleRoot, next); err != nil {
		return fmt.Errorf("the signature of root does not verify: %w", err)
	}
	r.root = next
	name := rootFile(next.Signed.Version)
	r.change.files[name] = in.Root
	r.change.entries = append(r.change.entries, name)
	return nil
}

// takeTargets returns the names of the files that are published.
func (r *Repository) takeTargets(in response) (names []string, err error) {
	if len(in.Targets) == 0 {
		return nil, nil
	}
	next, err := metadata.Targets().FromBytes(in.Targets)
	if err != nil {
		return nil, fmt.Errorf("the signed metadata of targets: %w", err)
	}
	if err := follows(roleTargets, next.Signed.Version, r.targets.Signed.Version); err != nil {
		return nil, err
	}
	if err := r.root.VerifyDelegate(roleTargets, next); err != nil {
		return nil, fmt.Errorf("the signature of targets does not verify: %w", err)
	}
	r.targets = next
	r.change.files[targetsFile(next.Signed.Version)] = in.Targets
	for _, name := range slices.Sorted(maps.Keys(next.Signed.Targets)) {
		digest := next.Signed.Targets[name].Hashes["sha256"].String()
		if data, ok := in.Files[name]; ok {
			r.change.files[targetFile(digest, name)] = data
			if !keyTargetName.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// follows returns an error unless a version is the next one.
func follows(role string, got, have int64) error {
	switch {
	case got <= have:
		return fmt.Errorf("the response has version %d of %s, and version %d is published already", got, role, have)
	case got > have+1:
		return fmt.Errorf("the response has version %d of %s, and version %d is published: an earlier response "+
			"is missing", got, role, have)
	}
	return nil
}

// moveOffline writes the new keys of root and targets to the offline directory, in place of keys/. After an error it
// removes what it wrote.
func (r *Repository) moveOffline() (err error) {
	dir := filepath.Join(r.o.Offline, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				err = errors.Join(err, os.Remove(name))
			}
		}
	}()
	for _, role := range []string{roleRoot, roleTargets} {
		name := filepath.Join(dir, role+".pem")
		if err := durable.CreateFile(name, r.change.keys[role], 0o600); err != nil {
			return fmt.Errorf("the key of %s is not written, and existing keys are never replaced: %w", role, err)
		}
		made = append(made, name)
		delete(r.change.keys, role)
	}
	return r.commit()
}

// copyAnchor writes the anchor to the directory of the offline keys.
func (r *Repository) copyAnchor() error {
	offline := newRepository(TUFOptions{Dir: r.o.Offline})
	for _, name := range slices.Sorted(maps.Keys(r.anchor)) {
		if err := offline.write(commitWrite{anchorDir + "/" + name, 0o600, r.anchor[name]}); err != nil {
			return err
		}
	}
	return nil
}
