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

// part is a text that a URI is made of, and where the text comes from.
type part struct {
	text  string
	claim string // the claim whose text it is; "" for text of the operator's or our own: literals and settings
	// setting says that the token has no such claim, and that the text is the operator's default for it.
	setting bool
}

// uriRules build a URI from parts. The one function that makes URIs is [uriRules.build].
//
// Two lists of parts that differ in the text of a claim MUST NOT give one URI (D13). So nothing is ever decoded, every
// byte of a claim that RFC 3986 does not allow in its place is percent-encoded, the percent sign included, and what
// separates two claims cannot stand in the first one. What a claim would add to the structure of the URI (an empty or a
// dot segment, a query, a fragment, a user, another host or port) is refused (D15).
type uriRules struct {
	// lenient gives Fulcio's bytes in place of ours, and refuses those that Fulcio gives for another text too.
	lenient bool
	// joined says that Fulcio appends the parts to the first one as a path and cleans it, as its types without profile
	// do. Otherwise Fulcio parses the text of all parts as one URL.
	joined bool
	// verbatim leaves the bytes of claims as they are, as Fulcio does in the extensions of profiles, and refuses the
	// same.
	verbatim bool
	// segments are claims that have no slash.
	segments []string
	// free is the claim that may contain what stands beside it; "" means the last one.
	free string
	// under is what the URI must begin with; "" means anything.
	under string
}

// place is where in a URI (RFC 3986 §3) the next byte stands.
type place uint8

const (
	inScheme    place = iota // before the colon
	inAuthority              // after //
	inPath
	inQuery
	inFragment
)

// placeAfter returns the place of the byte that follows s.
func placeAfter(s []byte) place {
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

func badPart(claim, problem string) error {
	return fault.New(fault.ClaimInvalid, errors.New(problem), "claim", claim)
}

// build returns the URI of parts. Its errors name the claim at fault.
func (u uriRules) build(parts []part) (string, error) {
	var room [8]part // most URIs have fewer parts
	parts = merged(room[:0], parts, false)
	for _, p := range parts {
		if p.claim != "" && slices.Contains(u.segments, p.claim) && strings.Contains(p.text, "/") {
			return "", badPart(p.claim, "has a slash")
		}
	}
	switch {
	case u.lenient && u.verbatim:
		return concatenated(parts), nil
	case u.lenient:
		return u.fulcio(parts)
	case len(parts) == 1 && parts[0].claim != "":
		return u.whole(parts[0])
	}
	if n := len(parts) - 1; n > 0 && parts[n].claim != "" && strings.HasSuffix(parts[n-1].text, "://") &&
		parts[n-1].claim == "" {
		parts = addressed(parts)
	}
	var placeRoom [8]place
	places, err := u.fit(parts, placeRoom[:0])
	if err != nil {
		return "", err
	}
	out, err := u.written(parts, places)
	if err != nil {
		return "", err
	}
	return out, u.finished(out, parts)
}

// merged joins neighbouring texts that are not of claims and drops empty ones, behind out, which is empty. It keeps the
// names of settings if it is told to.
func merged(out, parts []part, keepSettings bool) []part {
	tidy := true
	for i, p := range parts {
		tidy = tidy && !p.setting && (p.claim != "" || p.text != "" && (i == 0 || parts[i-1].claim != ""))
	}
	if tidy {
		return parts
	}
	for _, p := range parts {
		if p.setting && !keepSettings {
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

// addressed splits a last claim that stands behind "://" and is a host with a path, such as GitLab's ci_config_ref_uri:
// HOST/PROJECT//FILE@REF.
func addressed(parts []part) []part {
	last := parts[len(parts)-1]
	host, path, ok := strings.Cut(last.text, "/")
	if !ok {
		return parts
	}
	return append(slices.Clone(parts[:len(parts)-1]), part{text: host, claim: last.claim}, part{text: "/"},
		part{text: path, claim: last.claim})
}

// fit returns the place of each part. It refuses a claim that would change the structure of the URI.
func (u uriRules) fit(parts []part, places []place) ([]place, error) {
	var room [256]byte
	shape := room[:0] // the URI with an x in place of each claim, so that places depend on no claim
	for i, p := range parts {
		at := placeAfter(shape)
		places = append(places, at)
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
				return nil, badPart(p.claim, "the template gives no URI: a claim stands in its scheme")
			}
			if u.verbatim && i+1 < len(parts) && parts[i+1].claim != "" { // an address that another claim continues
				if _, err := u.whole(p); err != nil {
					return nil, err
				}
			} else if !origin(p.text) {
				return nil, badPart(p.claim, "not https://HOST, which the address in the certificate begins with")
			}
			shape = append(shape, "x://x"...)
			if strings.HasSuffix(p.text, "/") {
				shape = append(shape, '/')
			}
			continue
		case inAuthority:
			if _, authority, _, _ := components(u.under); !hostText(p.text) && p.text != authority {
				return nil, badPart(p.claim, "not the name of a host")
			}
		case inPath:
			slashes := 0
			if i >= 2 && parts[i-1].text == "/" && parts[i-2].claim == p.claim && places[i-2] == inAuthority {
				slashes = 1 // GitLab writes two between project and file
			}
			if err := pathText(p, slashes, bytes.IndexByte(shape, '@') >= 0); err != nil {
				return nil, err
			}
		case inQuery, inFragment:
			if u.verbatim && strings.ContainsAny(p.text, "&=#?") {
				return nil, badPart(p.claim, "has one of & = # ?")
			}
		}
		shape = append(shape, 'x')
	}
	return places, nil
}

// pathText checks a claim that stands in a path. slashes is how often two slashes may follow one another.
func pathText(p part, slashes int, ref bool) error {
	t := p.text
	switch mark := strings.IndexAny(t, "?#"); {
	case t[0] == '/' || t[len(t)-1] == '/' || strings.Count(t, "//") > slashes || strings.Contains(t, "///"):
		return badPart(p.claim, "has an empty part between slashes")
	case leadsOut(t):
		return badPart(p.claim, "has . or .. as a part of a path, or a backslash")
	case mark >= 0 && (t[mark] == '?' || strings.IndexByte(t, '?') >= 0):
		return badPart(p.claim, "has a question mark, which begins the query of a URI")
	case mark >= 0 && !ref && !strings.Contains(t[:mark],
		"@"): // git allows it in the name of a branch, which stands behind an @
		return badPart(p.claim, "has a #, which begins the fragment of a URI")
	}
	return nil
}

// leadsOut reports whether path, or what it is when it is decoded once more, has a dot segment.
func leadsOut(path string) bool {
	return dotted(path) || strings.IndexByte(path, '%') >= 0 && dotted(decoded(path))
}

// dotted reports whether path has a segment . or .., or a backslash, which some take for a slash.
func dotted(path string) bool {
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

// decoded replaces each valid percent-encoding of s by its byte (RFC 3986 §2.1) and leaves all else. It is for checks
// alone.
func decoded(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if b, ok := octet(s[i:]); ok {
			out = append(out, b)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// octet returns the byte of the percent-encoding that s begins with.
func octet(s string) (b byte, ok bool) {
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

// unreserved reports whether c never needs an encoding (RFC 3986 §2.3).
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' ||
		c == '_' || c == '~'
}

// pathByte reports whether c may stand in a path as it is (RFC 3986 §3.3).
func pathByte(c byte) bool { return unreserved(c) || strings.IndexByte("!$&'()*+,;=:@/", c) >= 0 }

// literalByte reports whether c may stand in the operator's own text of a URI, which is encoded already.
func literalByte(c byte) bool { return pathByte(c) || strings.IndexByte("%?#[]", c) >= 0 }

// written encodes claims and joins the parts. As net/url does, a path with a byte that must be encoded has !, ', (, )
// and * encoded too: certificates for file names with a space are the same as those of Fulcio then.
func (u uriRules) written(parts []part, places []place) (string, error) {
	fallback := false
	for i, p := range parts {
		for j := 0; places[i] == inPath && j < len(p.text); j++ {
			c := p.text[j]
			fallback = fallback || p.claim != "" && c != '%' && !pathByte(c) || p.claim == "" && !literalByte(c)
		}
	}
	var room [8]string
	texts := room[:0]
	for i, p := range parts {
		texts = append(texts, p.text)
		if u.verbatim || p.claim != "" && places[i] < inPath {
			continue
		}
		keep := pathByte
		switch {
		case p.claim == "":
			keep = literalByte
		case places[i] == inQuery:
			keep = func(c byte) bool { return unreserved(c) || strings.IndexByte("!$'()*,;:@/", c) >= 0 }
		case places[i] == inPath && fallback:
			keep = func(c byte) bool { return unreserved(c) || strings.IndexByte("$&+,/:;=@", c) >= 0 }
		}
		texts[i] = encoded(p.text, keep)
	}
	if err := u.separate(parts, texts); err != nil {
		return "", err
	}
	return strings.Join(texts, ""), nil
}

// encoded writes every byte of s that is not to be kept as percent-encoding, with upper-case digits (RFC 3986 §2.1).
func encoded(s string, keep func(byte) bool) string {
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

// separate checks that the text of each claim can be told from what stands beside it: one claim, the free one, may
// contain anything; those before it do not contain what follows them, and those behind it do not contain what stands
// before them. Then a URI can be read from both ends in one way only.
func (u uriRules) separate(parts []part, texts []string) error {
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
					return badPart(p.claim, "cannot be told from the claim "+parts[i+1].claim+", which follows it")
				}
				continue
			}
			if strings.Index(text+next, next) != len(text) {
				return badPart(p.claim, fmt.Sprintf("has %q, which separates it from what follows", next))
			}
			continue
		}
		before := texts[i-1]
		if parts[i-1].claim != "" {
			if !strings.HasSuffix(before, "/") || strings.Contains(texts[i], "/") {
				return badPart(p.claim, "cannot be told from the claim "+parts[i-1].claim+", which stands before it")
			}
			continue
		}
		if strings.LastIndex(before+texts[i], before) != 0 {
			return badPart(p.claim, fmt.Sprintf("has %q, which separates it from what stands before", before))
		}
	}
	return nil
}

// finished checks the URI that is certified, whatever it was made of: its path decoded once and once more.
func (u uriRules) finished(uri string, parts []part) error {
	culprit := "sub"
	for _, p := range parts {
		if p.claim != "" {
			culprit = p.claim
		}
	}
	scheme, authority, path, ok := components(uri)
	switch {
	case !ok || !schemeText(scheme) || authority == "" && path == "" || strings.Contains(authority, "@"):
		return badPart(culprit, fmt.Sprintf("the template gives %.200q, which is no absolute URI", uri))
	case leadsOut(path) || leadsOut(decoded(path)):
		return badPart(culprit, "gives a path with . or .. as a part")
	case !u.beneath(uri):
		return fault.New(fault.IdentityNotAllowed, fmt.Errorf("the name is not under %s", u.under), "claim", culprit)
	case u.verbatim:
		return nil
	}
	for rest := uri[len(scheme)+1+len(authority):]; rest != ""; rest = rest[1:] {
		if c := rest[0]; c == '%' || !pathByte(c) && c != '?' && c != '#' {
			if _, escape := octet(rest); !escape {
				return badPart(culprit, fmt.Sprintf("the template gives %.200q, which is no URI (RFC 3986)", uri))
			}
		}
	}
	return nil
}

// beneath reports whether uri begins with what it must begin with; a host is not the beginning of a longer name of a
// host.
func (u uriRules) beneath(uri string) bool {
	rest, ok := strings.CutPrefix(uri, u.under)
	if _, authority, path, whole := components(u.under); ok && whole && authority != "" && path == "" && rest != "" {
		return strings.IndexByte("/?#", rest[0]) >= 0
	}
	return ok
}

// components splits an absolute URI (RFC 3986 §3). path ends before query and fragment.
func components(uri string) (scheme, authority, path string, ok bool) {
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

// schemeText reports whether s is a scheme in its one spelling, lower case (RFC 3986 §3.1).
func schemeText(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

// hostText reports whether s is labels of a host name in their one spelling, lower case.
func hostText(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return false
		}
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// origin reports whether s is scheme, host and perhaps port of a web address, in their one spelling (RFC 3986 §6.2).
func origin(s string) bool {
	scheme, authority, path, ok := components(s)
	return ok && path == "" && (scheme == "https" || scheme == "http") && s == scheme+"://"+authority &&
		authorityText(authority, scheme)
}

// authorityText reports whether s is a host and perhaps a port, written in the one way that RFC 3986 §6.2 prefers: in
// lower case, and without a port that the scheme means anyway.
func authorityText(s, scheme string) bool {
	host, port, ok := strings.Cut(s, ":")
	if ok && (port == "" || len(port) > 5 || port[0] == '0' || strings.Trim(port, "0123456789") != "" ||
		scheme == "https" && port == "443" || scheme == "http" && port == "80") {
		return false
	}
	return hostText(host)
}

// whole checks a claim that is the whole URI: it is certified as it is.
func (u uriRules) whole(p part) (string, error) {
	scheme, authority, path, ok := components(p.text)
	if p.text == "" {
		return "", fault.New(fault.ClaimMissing, errors.New("empty"), "claim", p.claim)
	}
	if !ok || !schemeText(scheme) {
		return "", badPart(p.claim, "not an absolute URI")
	}
	if !u.beneath(p.text) {
		return "", fault.New(fault.IdentityNotAllowed, fmt.Errorf("not under %s", u.under), "claim", p.claim)
	}
	if authority != "" && !authorityText(authority, scheme) || strings.ContainsAny(p.text, "?#") ||
		authority == "" && path == "" {
		return "", badPart(p.claim,
			"has a user, a query, a fragment, or a host that is written in another way than usual")
	}
	return p.text, onlySpelling(p, path)
}

// onlySpelling checks that a claim is a URI (RFC 3986 §3), and written in the one way that §6.2.2 prefers: no encoding
// of a byte that needs none, upper-case digits, no dot segment. path is the path in it.
func onlySpelling(p part, path string) error {
	for i := strings.Index(p.text, path); i < len(p.text); i++ { // what stands before is checked by the caller
		c := p.text[i]
		if c != '%' {
			if !pathByte(c) && c != '?' && c != '#' {
				return badPart(p.claim, "has a character that a URI cannot hold (RFC 3986)")
			}
			continue
		}
		b, ok := octet(p.text[i:])
		if !ok || unreserved(b) || strings.ToUpper(p.text[i:i+3]) != p.text[i:i+3] {
			return badPart(p.claim, "has a percent sign that is not the usual encoding of a byte (RFC 3986 §6.2.2)")
		}
		i += 2
	}
	if leadsOut(path) || leadsOut(decoded(path)) || strings.Contains(path, "//") {
		return badPart(p.claim, "has an empty part, . or .. in its path")
	}
	return nil
}

// fulcio returns the URI as Fulcio v1.8.8 writes it. Of all texts that Fulcio writes alike, one passes: the one that
// was not encoded.
func (u uriRules) fulcio(parts []part) (string, error) {
	texts := make([]string, len(parts))
	culprit := "sub"
	for i, p := range parts {
		texts[i] = p.text
		if p.claim != "" && (culprit == "sub" || strings.IndexByte(p.text, '%') >= 0) {
			culprit = p.claim
		}
	}
	if err := u.separate(parts, texts); err != nil {
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
		return "", badPart(culprit, fmt.Sprintf("the template gives %.200q, which is no URI", text))
	}
	uri := out.String()
	only := unencoded(uri, u.joined)
	if len(parts) == 1 { // a claim that is a URI is encoded already
		only = uri
	}
	if only != text {
		return "", badPart(culprit,
			"is written by Fulcio as another text is, so that the certificate would not tell the two apart")
	}
	if !u.beneath(uri) {
		return "", fault.New(fault.IdentityNotAllowed,
			fmt.Errorf("the name is not under %s", u.under), "claim", culprit)
	}
	return uri, nil
}

// unencoded returns the one text that stands for a URI which net/url has written: where net/url had to encode a byte of
// a path or of a fragment, it decoded and encoded all of it, and the text is what it decoded. It is a function of the
// URI alone.
func unencoded(uri string, joined bool) string {
	rest, fragment, hasFragment := strings.Cut(uri, "#")
	rest, query, hasQuery := strings.Cut(rest, "?")
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		if i := strings.IndexByte(after, '/'); i >= 0 {
			rest = scheme + "://" + after[:i] + reencoded(after[i:], joined)
		}
	}
	if hasQuery {
		rest += "?" + query
	}
	if hasFragment {
		rest += "#" + reencoded(fragment, false)
	}
	return rest
}

// reencoded is a path or fragment of net/url before it was encoded.
func reencoded(s string, joined bool) string {
	for i := range len(s) {
		b, ok := octet(s[i:])
		if ok && (b <= ' ' || b >= 0x7f || strings.IndexByte("\"<>\\^`{|}", b) >= 0 ||
			joined && (b == '?' || b == '#')) {
			return decoded(s)
		}
	}
	return s
}
