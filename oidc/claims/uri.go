package claims

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
)

// part is a part of a URI or of another text, with its origin.
type part struct {
	text  string
	claim string // the claim that the text is from; empty for literals and settings of the operator
	// isDefault means that the token has no such claim, and that the text is its default.
	isDefault bool
}

// uriRules build a URI from parts. All URIs in certificates are made by [uriRules.build].
//
// Two lists of parts that differ in the text of a claim MUST NOT give the same URI (D13). Therefore nothing is decoded,
// every byte of a claim that RFC 3986 does not allow in its place is percent-encoded, including the percent sign, and
// the delimiter between two claims cannot occur in the first one. A claim that would change the structure of the URI
// (an empty or a dot segment, a query, a fragment, a user, another host or port) is refused (D15).
type uriRules struct {
	// lenient produces the same bytes as Fulcio, and refuses a text if Fulcio produces the same bytes for another text.
	lenient bool
	// joined means that Fulcio appends the parts to the first one as a path and cleans the path, as it does for types
	// without a profile. Otherwise Fulcio parses the text of all parts as one URL.
	joined bool
	// verbatim leaves the bytes of claims unchanged, as Fulcio does in the extensions of profiles. The checks are the
	// same.
	verbatim bool
	// segments are claims that must not have a slash.
	segments []string
	// free is the one claim that may contain its own delimiters; empty means the last claim.
	free string
	// under is the prefix that the URI must have; empty means any.
	under string
}

// component is a component of a URI (RFC 3986 §3).
type component uint8

const (
	inScheme    component = iota // before the colon of the scheme
	inAuthority                  // after //
	inPath
	inQuery
	inFragment
)

// componentAfter returns the component of the byte that follows s.
func componentAfter(s []byte) component {
	_, rest, ok := bytes.Cut(s, []byte(":"))
	if !ok {
		return inScheme
	}
	if authority, slashes := bytes.CutPrefix(rest, []byte("//")); slashes {
		end := bytes.IndexAny(authority, "/?#")
		if end < 0 {
			return inAuthority
		}
		rest = authority[end:]
	}
	switch {
	case bytes.IndexByte(rest, '#') >= 0:
		return inFragment
	case bytes.IndexByte(rest, '?') >= 0:
		return inQuery
	}
	return inPath
}

func invalidClaim(claim, problem string) error {
	return fault.New(fault.ClaimInvalid, errors.New(problem), "claim", claim)
}

// build returns the URI of parts. Its errors name the refused claim.
func (u uriRules) build(parts []part) (string, error) {
	var buffer [8]part // most URIs have no more parts than this
	parts = mergeLiterals(buffer[:0], parts, false)
	for _, p := range parts {
		if p.claim != "" && slices.Contains(u.segments, p.claim) && strings.Contains(p.text, "/") {
			return "", invalidClaim(p.claim, "has a slash")
		}
	}
	switch {
	case u.lenient && u.verbatim:
		return concatenated(parts), nil
	case u.lenient:
		return u.fulcioURI(parts)
	case len(parts) == 1 && parts[0].claim != "":
		return u.checkWhole(parts[0])
	}
	if n := len(parts) - 1; n > 0 && parts[n].claim != "" && strings.HasSuffix(parts[n-1].text, "://") &&
		parts[n-1].claim == "" {
		parts = splitHost(parts)
	}
	var componentBuffer [8]component
	components, err := u.checkParts(parts, componentBuffer[:0])
	if err != nil {
		return "", err
	}
	out, err := u.encode(parts, components)
	if err != nil {
		return "", err
	}
	return out, u.checkResult(out, parts)
}

// mergeLiterals joins adjacent literals and drops empty ones. out is an empty slice for the result. Defaults remain
// parts of their claims if keepDefaults is set; otherwise they become literals.
func mergeLiterals(out, parts []part, keepDefaults bool) []part {
	merged := true
	for i, p := range parts {
		merged = merged && !p.isDefault && (p.claim != "" || p.text != "" && (i == 0 || parts[i-1].claim != ""))
	}
	if merged {
		return parts
	}
	for _, p := range parts {
		if p.isDefault && !keepDefaults {
			p = part{text: p.text}
		}
		switch n := len(out) - 1; {
		case p.claim == "" && p.text == "":
		case p.claim == "" && n >= 0 && out[n].claim == "":
			out[n].text += p.text
		default:
			out = append(out, p)
		}
	}
	return out
}

func concatenated(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.text)
	}
	return b.String()
}

// splitHost splits a last claim that follows "://" and is a host with a path, such as GitLab's ci_config_ref_uri:
// HOST/PROJECT//FILE@REF.
func splitHost(parts []part) []part {
	last := parts[len(parts)-1]
	host, path, ok := strings.Cut(last.text, "/")
	if !ok {
		return parts
	}
	return append(slices.Clone(parts[:len(parts)-1]), part{text: host, claim: last.claim}, part{text: "/"},
		part{text: path, claim: last.claim})
}

// checkParts returns the component of each part. It refuses a claim that would change the structure of the URI.
func (u uriRules) checkParts(parts []part, components []component) ([]component, error) {
	var buffer [256]byte
	shape := buffer[:0] // the URI with x in place of each claim, so that the components do not depend on claims
	for i, p := range parts {
		at := componentAfter(shape)
		components = append(components, at)
		if p.claim == "" {
			shape = append(shape, p.text...)
			continue
		}
		if p.text == "" {
			return nil, fault.New(fault.ClaimMissing, errors.New("empty"), "claim", p.claim)
		}
		switch at {
		case inScheme:
			if i > 0 {
				return nil, invalidClaim(p.claim, "the template does not give a URI: a claim is in the scheme")
			}
			if u.verbatim && i+1 < len(parts) && parts[i+1].claim != "" { // an authority, followed by another claim
				if _, err := u.checkWhole(p); err != nil {
					return nil, err
				}
			} else if !isOrigin(p.text) {
				return nil, invalidClaim(p.claim, "not https://HOST, with which the URI in the certificate begins")
			}
			shape = append(shape, "x://x"...)
			if strings.HasSuffix(p.text, "/") {
				shape = append(shape, '/')
			}
			continue
		case inAuthority:
			if _, authority, _, _ := splitURI(u.under); !isHost(p.text) && p.text != authority {
				return nil, invalidClaim(p.claim, "not a host name")
			}
		case inPath:
			slashes := 0
			if i >= 2 && parts[i-1].text == "/" && parts[i-2].claim == p.claim && components[i-2] == inAuthority {
				slashes = 1 // GitLab writes two slashes between project and file
			}
			if err := checkPathPart(p, slashes, bytes.IndexByte(shape, '@') >= 0); err != nil {
				return nil, err
			}
		case inQuery, inFragment:
			if u.verbatim && strings.ContainsAny(p.text, "&=#?") {
				return nil, invalidClaim(p.claim, "has one of & = # ?")
			}
		}
		shape = append(shape, 'x')
	}
	return components, nil
}

// checkPathPart checks a claim in a path. slashes is how many empty segments it may have; ref says that the claim is a
// name of a branch or tag.
func checkPathPart(p part, slashes int, ref bool) error {
	t := p.text
	switch mark := strings.IndexAny(t, "?#"); {
	case t[0] == '/' || t[len(t)-1] == '/' || strings.Count(t, "//") > slashes || strings.Contains(t, "///"):
		return invalidClaim(p.claim, "has an empty path segment")
	case hasDotSegment(t):
		return invalidClaim(p.claim, "has . or .. as a path segment, or a backslash")
	case mark >= 0 && (t[mark] == '?' || strings.IndexByte(t, '?') >= 0):
		return invalidClaim(p.claim, "has a question mark, which begins the query of a URI")
	case mark >= 0 && !ref && !strings.Contains(t[:mark],
		"@"): // git allows # in the name of a branch, which follows an @
		return invalidClaim(p.claim, "has a #, which begins the fragment of a URI")
	}
	return nil
}

// hasDotSegment reports whether path, or path decoded once, has a dot segment.
func hasDotSegment(path string) bool {
	return hasPlainDotSegment(path) || strings.IndexByte(path, '%') >= 0 && hasPlainDotSegment(percentDecode(path))
}

// hasPlainDotSegment reports whether path has a segment "." or "..", or a backslash, which some software treats as a
// slash.
func hasPlainDotSegment(path string) bool {
	if strings.IndexByte(path, '.') < 0 && strings.IndexByte(path, '\\') < 0 {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return strings.IndexByte(path, '\\') >= 0
}

// percentDecode replaces each valid percent-encoding in s (RFC 3986 §2.1) and leaves the rest unchanged. The result is
// used for checks only.
func percentDecode(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if b, ok := decodeByte(s[i:]); ok {
			out = append(out, b)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// decodeByte decodes the percent-encoding at the beginning of s.
func decodeByte(s string) (b byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	high, low := hexDigit(s[1]), hexDigit(s[2])
	return byte(high<<4 | low), high >= 0 && low >= 0
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// isUnreserved reports whether c is an unreserved character (RFC 3986 §2.3).
func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' ||
		c == '_' || c == '~'
}

// isPathByte reports whether c may occur unencoded in a path (RFC 3986 §3.3).
func isPathByte(c byte) bool { return isUnreserved(c) || strings.IndexByte("!$&'()*+,;=:@/", c) >= 0 }

// isLiteralByte reports whether c may occur in a literal, which the operator has already encoded.
func isLiteralByte(c byte) bool { return isPathByte(c) || strings.IndexByte("%?#[]", c) >= 0 }

// encode percent-encodes claims and joins the parts. If a path has a byte that must be encoded, !, ', (, ) and * are
// encoded too, as in net/url: certificates for file names with a space are then the same as those of Fulcio.
func (u uriRules) encode(parts []part, components []component) (string, error) {
	asURL := false
	for i, p := range parts {
		for j := 0; components[i] == inPath && j < len(p.text); j++ {
			c := p.text[j]
			asURL = asURL || p.claim != "" && c != '%' && !isPathByte(c) || p.claim == "" && !isLiteralByte(c)
		}
	}
	var buffer [8]string
	texts := buffer[:0]
	for i, p := range parts {
		texts = append(texts, p.text)
		if u.verbatim || p.claim != "" && components[i] < inPath {
			continue
		}
		keep := isPathByte
		switch {
		case p.claim == "":
			keep = isLiteralByte
		case components[i] == inQuery:
			keep = func(c byte) bool { return isUnreserved(c) || strings.IndexByte("!$'()*,;:@/", c) >= 0 }
		case components[i] == inPath && asURL:
			keep = func(c byte) bool { return isUnreserved(c) || strings.IndexByte("$&+,/:;=@", c) >= 0 }
		}
		texts[i] = percentEncode(p.text, keep)
	}
	if err := u.checkDelimiters(parts, texts); err != nil {
		return "", err
	}
	return strings.Join(texts, ""), nil
}

// percentEncode encodes every byte of s for which keep is false, with upper-case digits (RFC 3986 §2.1).
func percentEncode(s string, keep func(byte) bool) string {
	n := 0
	for i := range len(s) {
		if !keep(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if keep(s[i]) {
			out = append(out, s[i])
			continue
		}
		out = append(out, '%', digits[s[i]>>4], digits[s[i]&15])
	}
	return string(out)
}

// checkDelimiters checks that the claims can be extracted from the URI. The claims before the free claim must not
// contain the literal that follows them, and the claims after it must not contain the literal before them: the URI can
// then be split in one way only, from both ends. The free claim may contain anything.
func (u uriRules) checkDelimiters(parts []part, texts []string) error {
	free := -1
	for i, p := range parts {
		if p.claim != "" && (u.free == "" || p.claim == u.free) {
			free = i
		}
	}
	for i, p := range parts {
		if p.claim == "" || i == free {
			continue
		}
		if free < 0 || i < free {
			if i+1 == len(parts) {
				continue
			}
			text, next := texts[i], texts[i+1]
			if _, after, ok := strings.Cut(text, "://"); ok && i == 0 {
				text = after
			}
			if parts[i+1].claim != "" {
				if !strings.HasSuffix(texts[i], "/") || strings.Contains(texts[i+1], "/") {
					return invalidClaim(p.claim,
						"is not separated from the claim "+parts[i+1].claim+", which follows it")
				}
				continue
			}
			if strings.Index(text+next, next) != len(text) {
				return invalidClaim(p.claim, fmt.Sprintf("contains %q, the delimiter after it", next))
			}
			continue
		}
		before := texts[i-1]
		if parts[i-1].claim != "" {
			if !strings.HasSuffix(before, "/") || strings.Contains(texts[i], "/") {
				return invalidClaim(p.claim, "is not separated from the claim "+parts[i-1].claim+", which precedes it")
			}
			continue
		}
		if strings.LastIndex(before+texts[i], before) != 0 {
			return invalidClaim(p.claim, fmt.Sprintf("contains %q, the delimiter before it", before))
		}
	}
	return nil
}

// checkResult checks the complete URI, independently of its parts. Its path is checked after decoding once, and after
// decoding twice.
func (u uriRules) checkResult(uri string, parts []part) error {
	claim := "sub"
	for _, p := range parts {
		if p.claim != "" {
			claim = p.claim
		}
	}
	scheme, authority, path, ok := splitURI(uri)
	switch {
	case !ok || !isScheme(scheme) || authority == "" && path == "" || strings.Contains(authority, "@"):
		return invalidClaim(claim, fmt.Sprintf("the template gives %.200q, which is not an absolute URI", uri))
	case hasDotSegment(path) || hasDotSegment(percentDecode(path)):
		return invalidClaim(claim, "gives a path with . or .. as a segment")
	case !u.isUnder(uri):
		return fault.New(fault.IdentityNotAllowed,
			fmt.Errorf("the name does not begin with %s", u.under), "claim", claim)
	case u.verbatim:
		return nil
	}
	for rest := uri[len(scheme)+1+len(authority):]; rest != ""; rest = rest[1:] {
		if c := rest[0]; c == '%' || !isPathByte(c) && c != '?' && c != '#' {
			if _, escape := decodeByte(rest); !escape {
				return invalidClaim(claim, fmt.Sprintf("the template gives %.200q, which is not a URI (RFC 3986)", uri))
			}
		}
	}
	return nil
}

// isUnder reports whether uri has the required prefix. If the prefix ends with a host, the host of uri must not be
// longer.
func (u uriRules) isUnder(uri string) bool {
	rest, ok := strings.CutPrefix(uri, u.under)
	if _, authority, path, whole := splitURI(u.under); ok && whole && authority != "" && path == "" && rest != "" {
		return strings.IndexByte("/?#", rest[0]) >= 0
	}
	return ok
}

// splitURI splits an absolute URI (RFC 3986 §3). path ends before the query and the fragment.
func splitURI(uri string) (scheme, authority, path string, ok bool) {
	scheme, rest, ok := strings.Cut(uri, ":")
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	if after, slashes := strings.CutPrefix(rest, "//"); slashes {
		if i := strings.IndexByte(after, '/'); i >= 0 {
			return scheme, after[:i], after[i:], ok
		}
		return scheme, after, "", ok
	}
	return scheme, "", rest, ok
}

// isScheme reports whether s is a scheme in lower case (RFC 3986 §3.1).
func isScheme(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

// isHost reports whether s consists of labels of a host name in lower case.
func isHost(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return false
		}
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// isOrigin reports whether s is scheme, host and optional port of a web address, normalized (RFC 3986 §6.2).
func isOrigin(s string) bool {
	scheme, authority, path, ok := splitURI(s)
	return ok && path == "" && (scheme == "https" || scheme == "http") && s == scheme+"://"+authority &&
		isAuthority(authority, scheme)
}

// isAuthority reports whether s is a host and an optional port, normalized (RFC 3986 §6.2): in lower case, and without
// the default port of the scheme.
func isAuthority(s, scheme string) bool {
	host, port, ok := strings.Cut(s, ":")
	if ok && (port == "" || len(port) > 5 || port[0] == '0' || strings.Trim(port, "0123456789") != "" ||
		scheme == "https" && port == "443" || scheme == "http" && port == "80") {
		return false
	}
	return isHost(host)
}

// checkWhole checks a claim that is the whole URI, which is certified unchanged.
func (u uriRules) checkWhole(p part) (string, error) {
	scheme, authority, path, ok := splitURI(p.text)
	if p.text == "" {
		return "", fault.New(fault.ClaimMissing, errors.New("empty"), "claim", p.claim)
	}
	if !ok || !isScheme(scheme) {
		return "", invalidClaim(p.claim, "not an absolute URI")
	}
	if !u.isUnder(p.text) {
		return "", fault.New(fault.IdentityNotAllowed, fmt.Errorf("does not begin with %s", u.under), "claim", p.claim)
	}
	if authority != "" && !isAuthority(authority, scheme) || strings.ContainsAny(p.text, "?#") ||
		authority == "" && path == "" {
		return "", invalidClaim(p.claim,
			"has a user, a query, a fragment, or a host that is not normalized")
	}
	return p.text, checkNormalized(p, path)
}

// checkNormalized checks that a claim is a URI (RFC 3986 §3) and normalized (§6.2.2): no encoding of a byte that needs
// none, upper-case digits, no dot segment. path is its path.
func checkNormalized(p part, path string) error {
	for i := strings.Index(p.text, path); i < len(p.text); i++ { // the caller has checked the part before the path
		c := p.text[i]
		if c != '%' {
			if !isPathByte(c) && c != '?' && c != '#' {
				return invalidClaim(p.claim, "has a character that a URI cannot contain (RFC 3986)")
			}
			continue
		}
		b, ok := decodeByte(p.text[i:])
		if !ok || isUnreserved(b) || strings.ToUpper(p.text[i:i+3]) != p.text[i:i+3] {
			return invalidClaim(p.claim,
				"has a percent sign that is not a normalized encoding of a byte (RFC 3986 §6.2.2)")
		}
		i += 2
	}
	if hasDotSegment(path) || hasDotSegment(percentDecode(path)) || strings.Contains(path, "//") {
		return invalidClaim(p.claim, "has an empty segment, . or .. in its path")
	}
	return nil
}

// fulcioURI returns the URI as Fulcio v1.8.8 writes it. Of all texts for which Fulcio writes the same URI, only the
// text without percent-encoding is accepted.
func (u uriRules) fulcioURI(parts []part) (string, error) {
	texts := make([]string, len(parts))
	claim := "sub"
	for i, p := range parts {
		texts[i] = p.text
		if p.claim != "" && (claim == "sub" || strings.IndexByte(p.text, '%') >= 0) {
			claim = p.claim
		}
	}
	if err := u.checkDelimiters(parts, texts); err != nil {
		return "", err
	}
	text := strings.Join(texts, "")
	var out *url.URL
	var err error
	if u.joined && len(parts) > 1 {
		if out, err = url.Parse(parts[0].text); err == nil {
			out = out.JoinPath(strings.TrimPrefix(text, parts[0].text))
		}
	} else {
		out, err = url.Parse(text)
	}
	if err != nil || out.Scheme == "" || out.Host == "" && out.Opaque == "" || out.User != nil {
		return "", invalidClaim(claim, fmt.Sprintf("the template gives %.200q, which is not a URI", text))
	}
	uri := out.String()
	only := textOf(uri, u.joined)
	if len(parts) == 1 { // a claim that is a URI is already encoded
		only = uri
	}
	if only != text {
		return "", invalidClaim(claim,
			"would get the same name as another text by Fulcio's rules")
	}
	if !u.isUnder(uri) {
		return "", fault.New(fault.IdentityNotAllowed,
			fmt.Errorf("the name does not begin with %s", u.under), "claim", claim)
	}
	return uri, nil
}

// textOf returns the one text that is accepted for a URI that net/url has written. If net/url had to encode a byte of
// the path or of the fragment, it has encoded the whole component, and the text is the decoded component. The result
// depends on the URI only.
func textOf(uri string, joined bool) string {
	rest, fragment, hasFragment := strings.Cut(uri, "#")
	rest, query, hasQuery := strings.Cut(rest, "?")
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		if i := strings.IndexByte(after, '/'); i >= 0 {
			rest = scheme + "://" + after[:i] + undoEncoding(after[i:], joined)
		}
	}
	if hasQuery {
		rest += "?" + query
	}
	if hasFragment {
		rest += "#" + undoEncoding(fragment, false)
	}
	return rest
}

// undoEncoding returns a path or fragment of net/url as it was before net/url encoded it.
func undoEncoding(s string, joined bool) string {
	for i := range len(s) {
		b, ok := decodeByte(s[i:])
		if ok && (b <= ' ' || b >= 0x7f || strings.IndexByte("\"<>\\^`{|}", b) >= 0 ||
			joined && (b == '?' || b == '#')) {
			return percentDecode(s)
		}
	}
	return s
}
