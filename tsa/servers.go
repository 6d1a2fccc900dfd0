package tsa

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/beevik/ntp"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// ClockConfig has the settings of the comparison of this machine's clock with time servers.
type ClockConfig struct {
	// Servers are 1 to 16 time servers: ntp://HOST or ntp://HOST:PORT (RFC 5905), or nts://HOST or nts://HOST:PORT
	// (RFC 8915), whose answers nobody on the way can change. More than half of them must agree with this machine's
	// clock: write three or more, so that one that is wrong or silent does not matter.
	Servers []string `yaml:"servers"`
	// CACert is the path of a file with the CA certificates, in PEM, of servers with nts. When omitted: those of the
	// system.
	CACert string `yaml:"ca_cert" path:"read"`
	// MaxOffset is the largest difference between this machine's clock and that of a server that agrees, including
	// the uncertainty of the answer. Default: 500ms.
	MaxOffset time.Duration `yaml:"max_offset"`
	// Every is the time between two requests to a server, from 16s to 1h. Default: 1m.
	Every time.Duration `yaml:"every"`
	// MaxAge is how long timestamps are made without an agreement, while servers do not answer; it is at least twice
	// every. Default: 1h.
	MaxAge time.Duration `yaml:"max_age"`
}

// The defaults and limits of [ClockConfig].
const (
	defaultMaxOffset = 500 * time.Millisecond
	minMaxOffset     = time.Millisecond
	defaultEvery     = time.Minute
	minEvery         = 16 * time.Second // the shortest interval of RFC 5905 §7.3
	maxEvery         = time.Hour
	defaultMaxAge    = time.Hour
	maxMaxAge        = 24 * time.Hour
	maxServers       = 16
)

// check finds what is wrong. Its errors are [fault.Setting] values.
func (c *ClockConfig) check() error {
	if c == nil {
		return nil
	}
	var errs []error
	if n := len(c.Servers); n == 0 || n > maxServers {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%d time servers", n), "write 1 to 16 servers", "servers"))
	}
	for i, one := range c.Servers {
		if _, err := parseServer(one); err != nil {
			errs = append(errs, fault.BadSetting(err.Error(), "write ntp://HOST, nts://HOST, or either with :PORT",
				"servers", fmt.Sprint(i)))
		} else if slices.Contains(c.Servers[:i], one) {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is listed twice", one), "remove one", "servers",
				fmt.Sprint(i)))
		}
	}
	if o := c.maxOffset(); o < minMaxOffset || o > maxAccuracy-DefaultAccuracy || o%time.Millisecond != 0 {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is out of range", o),
			"write whole milliseconds from 1ms to 59s",
			"max_offset"))
	}
	if e := c.every(); e < minEvery || e > maxEvery {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is out of range", e), "write a duration from 16s to 1h",
			"every"))
	} else if a := c.maxAge(); a < 2*e || a > maxMaxAge {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("%s is out of range", a),
			"write a duration from twice the value of every to 24h", "max_age"))
	}
	return errors.Join(errs...)
}

func (c *ClockConfig) maxOffset() time.Duration { return cmp.Or(c.MaxOffset, defaultMaxOffset) }
func (c *ClockConfig) every() time.Duration     { return cmp.Or(c.Every, defaultEvery) }
func (c *ClockConfig) maxAge() time.Duration    { return cmp.Or(c.MaxAge, defaultMaxAge) }

const ntpPort = "123"

// parseServer returns a time server.
func parseServer(text string) (*timeSource, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "ntp" && u.Scheme != "nts" || u.Hostname() == "" || u.User != nil ||
		strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the URL of a time server", text)
	}
	s := &timeSource{nts: u.Scheme == "nts"}
	port := ntpPort
	if s.nts {
		port = ntsPort
	}
	s.address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return s, nil
}

// sources returns the time servers. Its errors are [fault.Setting] values.
func (c *ClockConfig) sources() ([]*timeSource, error) {
	roots, err := pemfile.LoadPool(c.CACert, "clock", "ca_cert")
	if err != nil {
		return nil, err
	}
	out := make([]*timeSource, len(c.Servers))
	for i, one := range c.Servers {
		if out[i], err = parseServer(one); err != nil {
			return nil, fault.BadSetting(err.Error(), "", "clock", "servers", fmt.Sprint(i))
		}
		out[i].roots = roots
	}
	return out, nil
}

// verdict is what the answer of a server says about this machine's clock.
type verdict string

const (
	agrees    verdict = "agrees"
	disagrees verdict = "disagrees"
	unsure    verdict = "unsure" // the answer is too uncertain to say
	failed    verdict = "failed" // no usable answer
)

// answer is the last result for one server.
type answer struct {
	verdict verdict
	offset  time.Duration // the server's clock minus this machine's
	err     error         // of failed
}

// serversError says that the time servers do not confirm this machine's clock. The names of the servers are for the
// operator.
type serversError struct{ public, causes string }

func (e *serversError) Error() string { return e.public + e.causes }

const (
	// queryTimeout limits one request to a server, including the resolution of its name.
	queryTimeout = 5 * time.Second
	// asideFor is how long a server that asked for fewer requests (kiss-o'-death, RFC 5905 §7.4) gets none.
	asideFor = 15 * time.Minute
	// retryEvery is the time between two rounds while timestamps are stopped.
	retryEvery = minEvery
	// maxMove is how far the wall clock may move during a round.
	maxMove = 50 * time.Millisecond
)

// servers compares this machine's clock with time servers. Its methods accept nil: nothing is compared.
type servers struct {
	config  ClockConfig
	sources []*timeSource
	clock   *clock
	metrics *metrics
	wake    chan struct{} // a round is wanted now

	mu        sync.Mutex
	answers   []answer
	aside     []time.Duration // by elapsed: no request before
	confirmed time.Duration   // by elapsed: when more than half of the servers agreed last; 0: they have not yet
	wrong     error           // more than half of the servers disagree
}

func newServers(c *ClockConfig, k *clock, m *metrics) (*servers, error) {
	if c == nil {
		return nil, nil //nolint:nilnil // nothing is compared
	}
	s := &servers{
		config: *c, clock: k, metrics: m, wake: make(chan struct{}, 1),
		answers: make([]answer, len(c.Servers)), aside: make([]time.Duration, len(c.Servers)),
	}
	var err error
	s.sources, err = c.sources()
	return s, err
}

// problem returns why the servers forbid timestamps, or nil.
func (s *servers) problem() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch age := s.clock.elapsed() - s.confirmed; {
	case s.wrong != nil:
		return s.wrong
	case s.confirmed == 0:
		return &serversError{"this machine's clock has not been compared with the time servers yet", s.causes()}
	case age > s.config.maxAge():
		return &serversError{
			"the time servers have not confirmed this machine's clock for " +
				age.Truncate(time.Second).String(), s.causes(),
		}
	}
	return nil
}

// warning describes the servers that do not agree, while the others are enough.
func (s *servers) warning() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimPrefix(s.causes(), ": ")
}

// causes lists what is wrong with the last answers, after a colon. The caller holds the lock.
func (s *servers) causes() string {
	var out []string
	for i, a := range s.answers {
		switch a.verdict {
		case failed:
			out = append(out, s.config.Servers[i]+": "+a.err.Error())
		case disagrees, unsure:
			out = append(out, fmt.Sprintf("%s: the clocks differ by %s (%s)", s.config.Servers[i],
				a.offset.Round(time.Millisecond), a.verdict))
		case agrees:
		}
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, "; ")
}

// run compares the clock at intervals until ctx ends.
func (s *servers) run(ctx context.Context) {
	if s == nil {
		return
	}
	for {
		every := s.config.every()
		if !s.round(ctx) {
			every = min(every, retryEvery)
		}
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// soon has a round made now.
func (s *servers) soon() {
	if s == nil {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// round asks all servers at the same time, and reports whether more than half of them agree. Such an agreement also
// says that the time is right after the clock was set.
func (s *servers) round(ctx context.Context) bool {
	before, ready := s.clock.difference()
	answers := make([]answer, len(s.sources))
	var all sync.WaitGroup
	for i := range s.sources {
		all.Go(func() { answers[i] = s.ask(ctx, i) })
	}
	all.Wait()
	after, alsoReady := s.clock.difference()
	if ctx.Err() != nil || !ready || !alsoReady || (after-before).Abs() > maxMove {
		return false // the clock was set meanwhile: what was measured says nothing about it
	}
	count := map[verdict]int{}
	for _, a := range answers {
		count[a.verdict]++
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = answers
	switch {
	case 2*count[agrees] > len(answers):
		s.confirmed, s.wrong = s.clock.elapsed(), nil
		s.clock.confirm(after)
		s.metrics.confirmed.Set(float64(s.clock.wall().Unix()))
		return true
	case 2*count[disagrees] > len(answers):
		s.wrong = fmt.Errorf("this machine's clock is %s %d of %d time servers", differs(answers), count[disagrees],
			len(answers))
	}
	return false
}

// differs describes the smallest difference of the servers that disagree.
func differs(answers []answer) string {
	var least time.Duration
	for _, a := range answers {
		if a.verdict == disagrees && (least == 0 || a.offset.Abs() < least.Abs()) {
			least = a.offset
		}
	}
	if least < 0 {
		return fmt.Sprintf("%.1f s ahead of", least.Abs().Seconds())
	}
	return fmt.Sprintf("%.1f s behind", least.Seconds())
}

// ask asks one server for its time.
func (s *servers) ask(ctx context.Context, i int) answer {
	name := s.config.Servers[i]
	now := s.clock.elapsed()
	s.mu.Lock()
	until := s.aside[i]
	s.mu.Unlock()
	if now < until {
		return answer{verdict: failed, err: fmt.Errorf("the server asked for fewer requests; the next one is in %s",
			(until - now).Round(time.Second))}
	}
	r, err := s.sources[i].request(ctx, s.clock.wall)
	if r != nil && r.IsKissOfDeath() {
		s.mu.Lock()
		s.aside[i] = now + asideFor
		s.mu.Unlock()
	}
	a := judge(r, err, s.config.maxOffset())
	if err == nil {
		s.metrics.offset.WithLabelValues(name).Set(a.offset.Seconds())
	}
	s.metrics.queries.WithLabelValues(name, string(a.verdict)).Inc()
	return a
}

// Comparison is the result of [Compare] for one server.
type Comparison struct {
	Server string        // as in [ClockConfig]
	Offset time.Duration // the server's clock minus this machine's
	// Agrees says that the offset and the uncertainty of the answer are within max_offset.
	Agrees bool
	Err    error // why there is no usable answer, or nil
}

// Compare asks every time server once, at the same time. c MUST have passed the check of [Config].
func Compare(ctx context.Context, c ClockConfig) []Comparison {
	out := make([]Comparison, len(c.Servers))
	sources, broken := c.sources()
	var all sync.WaitGroup
	for i, one := range c.Servers {
		all.Go(func() {
			r, err := (*ntp.Response)(nil), broken
			if broken == nil {
				r, err = sources[i].request(ctx, time.Now)
			}
			a := judge(r, err, c.maxOffset())
			out[i] = Comparison{Server: one, Offset: a.offset, Agrees: a.verdict == agrees, Err: a.err}
		})
	}
	all.Wait()
	return out
}

// judge compares the offset in an answer, and its uncertainty, with the largest offset that is allowed.
func judge(r *ntp.Response, err error, most time.Duration) answer {
	if err != nil {
		return answer{verdict: failed, err: err}
	}
	a := answer{verdict: unsure, offset: r.ClockOffset}
	switch off := r.ClockOffset.Abs(); {
	case off+r.RootDistance <= most:
		a.verdict = agrees
	case off-r.RootDistance > most:
		a.verdict = disagrees
	}
	return a
}

// timeSource is a time server. It answers one request at a time.
type timeSource struct {
	address string // of NTP, or of the key exchange of NTS
	nts     bool
	roots   *x509.CertPool // of the key exchange; nil: those of the system
	session *ntsSession    // nil: the next request begins one
}

// request makes one request. A packet has a limited size, and only one is read.
func (t *timeSource) request(ctx context.Context, wall func() time.Time) (*ntp.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	o := ntp.QueryOptions{
		Timeout: queryTimeout, GetSystemTime: wall,
		Dialer: func(_, remote string) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "udp", remote) },
	}
	address := t.address
	if t.nts {
		if t.session == nil || len(t.session.cookies) == 0 {
			var err error
			if t.session, err = establish(ctx, t.address, t.roots); err != nil {
				return nil, err
			}
		}
		address, o.Extensions = t.session.address, []ntp.Extension{&ntsPacket{session: t.session}}
	}
	r, err := ntp.QueryWithOptions(address, o)
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		t.session = nil // the server may have other keys
	}
	return r, err
}
