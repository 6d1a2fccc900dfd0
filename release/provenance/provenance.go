// Package provenance writes how a release was made: an in-toto statement (v1) with a SLSA provenance predicate (v1).
//
// The statement says only what the build knows: the commit, the version of the compiler, every module that is in a
// program with its digest, and the digests of the results. It names no machine, no person and no time, so that two
// builds of a commit give the same bytes; who built, and when, is in the certificate and the timestamp of its
// signature.
package provenance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/mayfly-ca/mayfly/release/bom"
	"github.com/mayfly-ca/mayfly/release/build"
)

// PredicateType is the type of the predicate.
const PredicateType = "https://slsa.dev/provenance/v1"

// Both URLs lead to the page that describes them. A builder of this kind fulfils level 1 of the build track of SLSA:
// the provenance exists; it is as trustworthy as the machine and its operator.
const (
	page      = "https://github.com/mayfly-ca/mayfly/blob/main/docs/releasing.md"
	BuildType = page + "#the-build"
	BuilderID = page + "#the-builder"
)

// Subject is a file of the release.
type Subject struct{ Name, SHA256 string }

// Options are the facts of a statement.
type Options struct {
	Source   build.Source
	Targets  []build.Target
	Programs []*bom.Program
	Subjects []Subject
}

// Statement returns the statement in JSON. It MUST have a subject.
func Statement(o Options) ([]byte, error) {
	if len(o.Subjects) == 0 {
		return nil, errors.New("a provenance without subjects says nothing")
	}
	var platforms []any
	for _, t := range o.Targets {
		platforms = append(platforms, map[string]any{"platform": t.Platform(), "package": t.Package})
	}
	external, err := structpb.NewStruct(map[string]any{
		"repository": repository, "version": o.Source.Version, "commit": o.Source.Commit, "programs": platforms,
	})
	if err != nil {
		return nil, err
	}
	commit := map[string]string{"gitCommit": o.Source.Commit}
	if o.Source.Modified {
		commit = nil // what was built is not the commit
	}
	predicate := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType: BuildType, ExternalParameters: external,
			ResolvedDependencies: append([]*intoto.ResourceDescriptor{{
				Uri: "git+" + repository + "@" + o.Source.Version, Digest: commit,
			}}, modules(o.Programs)...),
		},
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: BuilderID}},
	}
	value, err := toStruct(predicate)
	if err != nil {
		return nil, err
	}
	s := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: PredicateType, Predicate: value}
	for _, one := range o.Subjects {
		s.Subject = append(s.Subject, &intoto.ResourceDescriptor{
			Name: one.Name, Digest: map[string]string{"sha256": one.SHA256},
		})
	}
	if err := errors.Join(s.Validate(), predicate.Validate()); err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(s)
	if err != nil {
		return nil, err
	}
	// The encoder varies its white space on purpose.
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return nil, err
	}
	var pretty bytes.Buffer
	err = json.Indent(&pretty, out.Bytes(), "", "  ")
	pretty.WriteByte('\n')
	return pretty.Bytes(), err
}

const repository = "https://github.com/mayfly-ca/mayfly"

// modules returns the modules of all programs, each once, in the order of their URLs.
func modules(programs []*bom.Program) []*intoto.ResourceDescriptor {
	var out []*intoto.ResourceDescriptor
	for _, p := range programs {
		for _, m := range p.Modules {
			d := &intoto.ResourceDescriptor{Uri: m.URL()}
			if sum, ok := m.DirHash(); ok {
				d.Digest = map[string]string{"dirHash1": sum}
			}
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *intoto.ResourceDescriptor) int { return cmp.Compare(a.GetUri(), b.GetUri()) })
	return slices.CompactFunc(out, func(a, b *intoto.ResourceDescriptor) bool { return a.GetUri() == b.GetUri() })
}

func toStruct(p *slsa.Provenance) (*structpb.Struct, error) {
	text, err := protojson.Marshal(p)
	if err != nil {
		return nil, err
	}
	out := &structpb.Struct{}
	return out, protojson.Unmarshal(text, out)
}
