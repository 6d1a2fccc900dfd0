package image

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/mayfly-ca/mayfly/release/build"
)

var source = build.Source{
	Version: "v1.2.3", Commit: strings.Repeat("0123456789", 4), Date: time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC),
}

// images returns images of two programs that are only text.
func images(t *testing.T) []One {
	t.Helper()
	o := Options{Source: source, License: []byte("license")}
	for _, arch := range []string{"amd64", "arm64"} {
		path := filepath.Join(t.TempDir(), arch)
		if err := os.WriteFile(path, []byte("program for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Binaries = append(o.Binaries, build.Binary{Target: build.Target{OS: "linux", Arch: arch}, Path: path})
	}
	out, err := Images(o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// contents returns the files of an image.
func contents(t *testing.T, one One) map[string]*tar.Header {
	t.Helper()
	out := map[string]*tar.Header{}
	rc := mutate.Extract(one.Image)
	defer rc.Close() //nolint:errcheck // only read
	r := tar.NewReader(rc)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(h.Name, "/")] = h
	}
}

// The image has the program, its user and the CAs of TLS certificates: no shell, nothing that the user of the program
// could change except its state.
func TestContents(t *testing.T) {
	t.Parallel()
	for _, one := range images(t) {
		var files []string
		for name, h := range contents(t, one) {
			if h.Typeflag == tar.TypeReg {
				files = append(files, name)
			}
			if writable := h.Uid == User; writable != (name == state) || h.Mode&0o022 != 0 {
				t.Errorf("%s belongs to %d, mode %o", name, h.Uid, h.Mode)
			}
			if !h.ModTime.Equal(source.Date) {
				t.Errorf("%s has the time %s", name, h.ModTime)
			}
		}
		slices.Sort(files)
		want := []string{"etc/group", "etc/passwd", certificates, program, "usr/share/doc/mayfly/LICENSE"}
		if !slices.Equal(files, want) {
			t.Errorf("files %q, want %q", files, want)
		}
		config, err := one.Image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if c.User != "65532:65532" || config.Architecture != one.Arch || config.OS != "linux" ||
			!config.Created.Equal(source.Date) || !slices.Equal(c.Entrypoint, []string{"/usr/bin/mayfly"}) {
			t.Errorf("%+v", config)
		}
		if c.Labels["org.opencontainers.image.revision"] != source.Commit ||
			c.Labels["org.opencontainers.image.version"] != "1.2.3" {
			t.Errorf("labels %v", c.Labels)
		}
	}
}

// Every CA is a certificate of a CA, and Go reads the file.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	text := authorities()
	if n := bytes.Count(text, []byte("BEGIN CERTIFICATE")); n < 100 {
		t.Errorf("%d CAs", n)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !c.IsCA && c.Version > 1 {
			t.Errorf("%v, %v", c.Subject, err)
		}
	}
}

// The layout has one index with both architectures, the archives have the same images, and each is made of the same
// bytes again.
func TestLayout(t *testing.T) {
	t.Parallel()
	var packed [2]bytes.Buffer
	var docker [2][]byte
	for i := range packed {
		all, dir := images(t), filepath.Join(t.TempDir(), "image")
		if err := WriteLayout(dir, source, all); err != nil {
			t.Fatal(err)
		}
		if err := PackLayout(&packed[i], dir, source.Date); err != nil {
			t.Fatal(err)
		}
		top, err := layout.ImageIndexFromPath(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(top); err != nil {
			t.Error(err)
		}
		m, err := top.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Manifests) != 1 || m.Manifests[0].MediaType != types.OCIImageIndex ||
			m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.2.3" {
			t.Fatalf("%+v", m)
		}
		index, err := top.ImageIndex(m.Manifests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = index.IndexManifest(); err != nil {
			t.Fatal(err)
		}
		for j, one := range all {
			digest, err := one.Image.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if d := m.Manifests[j]; d.Digest != digest || d.Platform.String() != "linux/"+one.Arch {
				t.Errorf("%+v", d)
			}
		}
		path := filepath.Join(t.TempDir(), "docker.tar")
		if err := WriteDocker(path, source, all[1]); err != nil {
			t.Fatal(err)
		}
		if docker[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		loaded, err := tarball.ImageFromPath(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want, got := contents(t, all[1]), contents(t, One{Image: loaded}); len(want) != len(got) ||
			got[program] == nil {
			t.Errorf("files %v", got)
		}
	}
	if !bytes.Equal(packed[0].Bytes(), packed[1].Bytes()) || !bytes.Equal(docker[0], docker[1]) {
		t.Error("two images of the same programs differ")
	}
}
