// Package image makes the container image of mayfly, without a container engine.
//
// The image has one program and the few files that it needs, no shell and no package manager. It runs as the user 65532
// and needs no writable root: mayfly writes only where its configuration says, which is a volume. The same inputs give
// the same bytes.
package image

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/mayfly-ca/mayfly/release/archive"
	"github.com/mayfly-ca/mayfly/release/build"
)

// User is the user and the group that the program runs as.
const User = 65532

// Where the files are in the image.
const (
	program      = "usr/bin/mayfly"
	certificates = "etc/ssl/certs/ca-certificates.crt" // where crypto/x509 looks first
	state        = "var/lib/mayfly"
)

// Options are the inputs of an image.
type Options struct {
	Source   build.Source
	Binaries []build.Binary // for Linux, one for each architecture
	License  []byte
}

// One is the image for one architecture.
type One struct {
	Arch  string
	Image v1.Image
}

// Images returns one image for each binary.
func Images(o Options) ([]One, error) {
	var out []One
	base, err := layer(func(w io.Writer) error { return writeBase(w, o.Source.Date) })
	if err != nil {
		return nil, err
	}
	for _, b := range o.Binaries {
		text, err := os.ReadFile(b.Path)
		if err != nil {
			return nil, err
		}
		top, err := layer(func(w io.Writer) error {
			return archive.Tar(w, nil, nil, []archive.File{
				{Name: program, Data: text, Executable: true},
				{Name: "usr/share/doc/mayfly/LICENSE", Data: o.License},
			}, o.Source.Date)
		})
		if err != nil {
			return nil, err
		}
		image, err := assemble(o.Source, b.Arch, base, top)
		if err != nil {
			return nil, err
		}
		out = append(out, One{b.Arch, image})
	}
	return out, nil
}

// layer returns a compressed layer with the files that write writes.
func layer(write func(io.Writer) error) (v1.Layer, error) {
	var text bytes.Buffer
	if err := write(&text); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(text.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// writeBase writes the layer below the program: the user, and the CAs of TLS certificates that Mozilla trusts, from a
// module of the Go project, whose version go.mod fixes. Those of the machine that makes the release would differ.
func writeBase(w io.Writer, at time.Time) error {
	dirs := []string{
		"etc", "etc/mayfly", "etc/ssl", "etc/ssl/certs", "usr", "usr/bin", "usr/share", "usr/share/doc",
		"usr/share/doc/mayfly", "var", "var/lib", state,
	}
	return archive.Tar(w, dirs, map[string]int{state: User}, []archive.File{
		{Name: "etc/passwd", Data: fmt.Appendf(nil,
			"root:x:0:0:root:/:/sbin/nologin\nmayfly:x:%d:%[1]d:mayfly:/%s:/sbin/nologin\n", User, state)},
		{Name: "etc/group", Data: fmt.Appendf(nil, "root:x:0:\nmayfly:x:%d:\n", User)},
		{Name: certificates, Data: authorities()},
	}, at)
}

// authorities returns the CAs in PEM. A CA that is trusted with a condition, such as for certificates before a date, is
// left out: a file in PEM cannot say so.
func authorities() []byte {
	var out []byte
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})...)
		}
	}
	return out
}

func assemble(s build.Source, arch string, layers ...v1.Layer) (v1.Image, error) {
	var adds []mutate.Addendum
	for _, l := range layers {
		adds = append(adds, mutate.Addendum{
			Layer: l, MediaType: types.OCILayer,
			History: v1.History{Created: v1.Time{Time: s.Date}, CreatedBy: "mayfly release"},
		})
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: s.Date}
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%[1]d", User),
		Entrypoint: []string{"/" + program},
		Cmd:        []string{"serve", "--config", "/etc/mayfly/mayfly.yaml"},
		WorkingDir: "/" + state,
		Env:        []string{"PATH=/usr/bin"},
		StopSignal: "SIGTERM",
		Labels:     Labels(s),
	}
	return mutate.ConfigFile(image, config)
}

// Labels are the labels of the image and the annotations of the index, with the names of the OCI image specification.
func Labels(s build.Source) map[string]string {
	const key = "org.opencontainers.image."
	return map[string]string{
		key + "title":       "mayfly",
		key + "description": "A certificate authority for code signing that speaks the API of Sigstore's Fulcio",
		key + "version":     s.Number(),
		key + "revision":    s.Commit,
		key + "created":     s.Date.Format(time.RFC3339),
		key + "source":      "https://github.com/mayfly-ca/mayfly",
		key + "licenses":    "Apache-2.0",
		key + "vendor":      "the mayfly authors",
	}
}

// Tag is the tag of the image: the version, with the characters that a tag may have.
func Tag(s build.Source) string { return strings.ReplaceAll(s.Number(), "+", "-") }

// WriteLayout writes the images as one index into the directory dir, an OCI image layout.
func WriteLayout(dir string, s build.Source, images []One) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, one := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: one.Image,
			Descriptor: v1.Descriptor{
				MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: "linux", Architecture: one.Arch},
			},
		})
	}
	annotated, ok := mutate.Annotations(index, Labels(s)).(v1.ImageIndex)
	if !ok {
		return errors.New("annotations of an index do not give an index")
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(annotated, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": Tag(s),
	}))
}

// PackLayout writes the layout in the directory dir as one tar archive, which skopeo calls oci-archive.
func PackLayout(w io.Writer, dir string, at time.Time) error {
	var dirs []string
	var files []archive.File
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, name)
			return nil
		}
		data, err := fs.ReadFile(tree, name)
		files = append(files, archive.File{Name: name, Data: data})
		return err
	})
	if err != nil {
		return err
	}
	return archive.Tar(w, dirs, nil, files, at)
}

// WriteDocker writes one image as an archive for "docker load", which names it mayfly:TAG.
func WriteDocker(path string, s build.Source, one One) error {
	tag, err := name.NewTag("mayfly:" + Tag(s))
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, one.Image)
}
