package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/reconcile"
)

// reconcileFlags are those of "audit reconcile".
type reconcileFlags struct {
	config, since  string
	journals, logs []string
	lag            time.Duration
	json           bool
}

func newAuditReconcile() *cobra.Command {
	var f reconcileFlags
	cmd := &cobra.Command{
		Use:   "reconcile --config FILE",
		Short: "Hold the journal and the logs against each other: every certificate in both, and nothing else in a log",
		Long: "reconcile reads the logs of the configuration from their first entry, proves what it reads against their signed heads, then reads\n" +
			"the journal, and says what does not match: an entry that nobody intended (the CA's key is used elsewhere), a promise that a log did\n" +
			"not keep, a serial number used twice, signatures that no record explains. It needs the chain and the logs' keys, not the CA's key,\n" +
			"and writes nothing. Where several instances sign with one key, name the journals of the others with --journal.\n\n" +
			"Exit status: 0 all is well, 1 something could not be read or the copy of a log is too old, 3 something was found (docs/reconcile.md\n" +
			"says what to do).",
		Example: "  mayfly audit reconcile --config /etc/mayfly/mayfly.yaml --journal /mnt/other/journal.jsonl --since 24h",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), streams{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()})
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file (required)")
	fl.StringArrayVar(&f.journals, "journal", nil, "journal of another instance that signs with the same key; may be repeated")
	fl.StringArrayVar(&f.logs, "log", nil, "read this log only; may be repeated (default: all)")
	fl.StringVar(&f.since, "since", "", "leave out findings before this date or time, or older than this duration; everything is read all the same")
	fl.Var(lasting(&f.lag, 0), "lag",
		"how far the journals named by --journal may be behind (default: audit.reconcile.lag)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *reconcileFlags) run(ctx context.Context, std streams) error {
	if f.config == "" {
		return usage("--config is missing; write --config FILE")
	}
	cfg, _, err := config.Load(f.config)
	if err != nil {
		return misconfigured(err)
	}
	in := reconcile.Input{
		Progress: reconcileProgress(std.err),
		Commands: nextSteps{path: f.config, config: cfg}.commands,
	}
	if in.Since, err = moment("--since", f.since, time.Now()); err != nil {
		return err
	}
	if cfg.Audit == nil || cfg.Audit.File == "" {
		return usage("%s has no audit.file: there is no journal to hold the logs against", f.config)
	}
	if f.lag < 0 {
		return usage("--lag %s: write how far behind a journal may be, such as 10m", f.lag)
	}
	if in.Lag = f.lag; in.Lag == 0 {
		in.Lag = cfg.Audit.Reconcile.LagOrDefault()
	}
	if in.Journals, err = journalsOf(cfg, f.journals); err != nil {
		return located(cfg, err)
	}
	if in.Issuers, err = issuersOf(cfg); err != nil {
		return located(cfg, err)
	}
	targets, err := targetsOf(cfg)
	if err != nil {
		return located(cfg, err)
	}
	for _, name := range f.logs {
		if !slices.ContainsFunc(targets, func(t reconcile.Log) bool { return t.Name() == name }) {
			return usage("--log %q: there is no such log; the configuration has %s", name, logNamesOf(targets))
		}
	}
	for _, t := range targets {
		if len(f.logs) == 0 || slices.Contains(f.logs, t.Name()) {
			in.Logs = append(in.Logs, t)
		}
	}
	if len(in.Logs) == 0 {
		return usage("no log to read; the configuration has %s", logNamesOf(targets))
	}
	debug.SetGCPercent(25) // a million entries are kept at once: memory is dearer than time here
	report, err := reconcile.Run(ctx, in)
	if err != nil {
		return err
	}
	if isTerminal(std.err) {
		fmt.Fprint(progressTo(std.err), "\r\x1b[K")
	}
	return f.tell(report, std)
}

// tell prints the report and decides the exit status: what was found counts more than what could not be read.
func (f *reconcileFlags) tell(r reconcile.Report, std streams) error {
	var err error
	if f.json {
		err = writeJSON(std.out, r)
	} else {
		err = printReport(std.out, r)
	}
	if err != nil {
		return err
	}
	if len(r.Findings) > 0 {
		return &stop{exitFound, fmt.Errorf("mayfly: %s; docs/reconcile.md says what to do",
			human.Count(len(r.Findings), "finding"))}
	}
	if len(r.Incomplete) > 0 {
		return fmt.Errorf("not everything could be read, so that nothing is proven: %s", strings.Join(r.Incomplete, "; "))
	}
	return nil
}

func logNamesOf(targets []reconcile.Log) string {
	var names []string
	for _, t := range targets {
		names = append(names, t.Name())
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// reconcileProgress writes how far a run is, on a terminal only.
func reconcileProgress(w io.Writer) func(reconcile.Progress) {
	if !isTerminal(w) {
		return nil
	}
	shown := time.Now()
	return func(p reconcile.Progress) {
		if now := time.Now(); now.Sub(shown) > 200*time.Millisecond {
			shown = now
			fmt.Fprintf(progressTo(w), "\r\x1b[K%s: %d", printable(p.Name), p.Read)
		}
	}
}

// printReport prints logs, journals and findings as tables, and one line that sums up.
func printReport(w io.Writer, r reconcile.Report) error {
	st := styleFor(w)
	g := grid{head: []string{"LOG", "ENTRIES", "READ", "OURS", "HEAD", "STATE"}, spare: []string{"READ", "HEAD"}}
	for _, l := range r.Logs {
		state := st.green("proven")
		if l.Error != "" {
			state = st.red(printable(l.Error))
		}
		g.add(printable(l.Name), fmt.Sprint(l.Size), fmt.Sprint(l.Read), fmt.Sprint(l.Matched), logMoment(l.Head), state)
	}
	if err := g.write(w, st); err != nil {
		return err
	}
	fmt.Fprintln(w)
	g = grid{head: []string{"JOURNAL", "RECORDS", "FROM", "TO", "STATE"}, spare: []string{"FROM", "TO"}}
	for _, j := range r.Journals {
		state := st.green("read")
		if j.Error != "" {
			state = st.red(printable(j.Error))
		}
		g.add(printable(j.Name), fmt.Sprint(j.Records), logMoment(j.First), logMoment(j.Last), state)
	}
	if err := g.write(w, st); err != nil {
		return err
	}
	if err := printFindings(w, r.Findings); err != nil {
		return err
	}
	fmt.Fprintln(w)
	word := st.green("all is well")
	switch {
	case len(r.Findings) > 0:
		word = st.red(human.Count(len(r.Findings), "finding"))
	case len(r.Incomplete) > 0:
		word = st.yellow("incomplete")
	}
	return flow(w, st, word+explained(r.Explained))
}

func printFindings(w io.Writer, all []reconcile.Finding) error {
	if len(all) == 0 {
		return nil
	}
	st := styleFor(w)
	fmt.Fprintln(w)
	g := grid{head: []string{"TIME", "KIND", "WHERE", "INDEX", "SERIAL", "WHAT"}, spare: []string{"TIME", "INDEX", "SERIAL"}}
	actions := map[reconcile.Kind]string{}
	for _, f := range all {
		index := "-"
		if f.Index != nil {
			index = fmt.Sprint(*f.Index)
		}
		where := f.Log
		if where == "" {
			where = f.Journal
		}
		g.add(logMoment(f.Time), st.red(string(f.Kind)), orDash(where), index, orDash(f.Serial), printable(f.Summary()))
		actions[f.Kind] = f.Action
	}
	if err := g.write(w, st); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, k := range reconcile.Kinds() {
		if text := actions[k]; text != "" {
			if err := flow(w, st, fmt.Sprintf("%s (%s): %s", st.bold(string(k)), k.Severity(), text)); err != nil {
				return err
			}
		}
	}
	for i, f := range all {
		if i == maxToldCommands {
			_, err := fmt.Fprintf(w, "\n--json has the commands for the other %s.\n",
				human.Count(len(all)-i, "finding"))
			return err
		}
		if err := printCommands(w, st, f); err != nil {
			return err
		}
	}
	return nil
}

// maxToldCommands is for how many findings the commands to run next are printed.
const maxToldCommands = 20

// printCommands prints what to run next for a finding, one command a line, so that each can be copied.
func printCommands(w io.Writer, st style, f reconcile.Finding) error {
	if len(f.Commands) == 0 {
		return nil
	}
	about := f.ID
	if f.Identity != "" {
		about += ", " + printable(f.Identity)
	}
	if _, err := fmt.Fprintf(w, "\n%s (%s), run next:\n", st.bold(string(f.Kind)), about); err != nil {
		return err
	}
	for _, c := range f.Commands {
		if _, err := fmt.Fprintf(w, "  %s\n", printable(c)); err != nil {
			return err
		}
	}
	return nil
}

// explained says what does not match and need not.
func explained(x reconcile.Explained) string {
	var out []string
	for _, one := range []struct {
		n    uint64
		text string
	}{
		{x.WithoutOutcome, "intents without outcome"},
		{x.OrphanPrecerts, "precertificates without certificate"},
		{x.PredateJournal, "entries of before the journal"},
		{x.Undecided, "entries that are not judged yet"},
		{x.Open, "promises whose time has not come"},
		{x.Overdue, "promises whose time is over, and the log here is older"},
		{x.UnreadLogs, "promises of logs that were not read"},
		{x.IntentsArchived, "outcomes after a cut journal's beginning"},
	} {
		if one.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", one.n, one.text))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (explained: " + strings.Join(out, ", ") + ")"
}

// journalsOf are the journal of the configuration and those of other instances.
func journalsOf(cfg *config.Config, others []string) ([]reconcile.Journal, error) {
	key, err := cfg.Audit.Key.Read()
	if err != nil {
		return nil, fault.Under(err, "audit", "key")
	}
	out := []reconcile.Journal{{Name: cfg.Audit.File, Path: cfg.Audit.File, Live: true, Key: key}}
	for _, path := range others {
		if path != cfg.Audit.File {
			out = append(out, reconcile.Journal{Name: path, Path: path, Key: key})
		}
	}
	return out, nil
}

// issuersOf are the issuing certificates of the configuration, past and present. The key is not needed.
func issuersOf(cfg *config.Config) (out []*x509.Certificate, err error) {
	// The issuing key is that of the configuration: were it taken from the journal, whoever forges the journal and the log
	// would decide which key is looked for.
	chain, err := publicChain(cfg)
	if err != nil {
		return nil, err
	}
	out = append(out, chain[0])
	for i, path := range cfg.CA.Trust {
		chain, err := signer.ReadChain(path)
		if err != nil {
			return nil, fault.Under(err, "ca", "trust", strconv.Itoa(i))
		}
		out = append(out, chain[0])
	}
	return out, nil
}

// embeddedDelay is far longer than the log in this process takes to publish a checkpoint.
const embeddedDelay = 10 * time.Minute

// targetsOf are the logs of a configuration, as an auditor reads them.
func targetsOf(cfg *config.Config) (out []reconcile.Log, err error) {
	for i, l := range cfg.CT.Logs {
		o, err := monitorOptions(l)
		if err != nil {
			return nil, fault.Under(err, "ct", "logs", strconv.Itoa(i))
		}
		log, err := monitor.Open(o)
		if err != nil {
			return nil, fmt.Errorf("ct.logs: %w", err)
		}
		out = append(out, reconcile.Log{Log: log, MergeDelay: l.MergeDelay()})
	}
	if cfg.CT.Embedded == nil {
		return out, nil
	}
	shards, err := cfg.CT.Embedded.Shards()
	if err != nil {
		return nil, fault.Under(err, "ct", "embedded")
	}
	for _, s := range shards {
		t, err := shardTarget(*cfg.CT.Embedded, s)
		if err != nil {
			return nil, fault.Under(err, "ct", "embedded", "dir")
		}
		out = append(out, t)
	}
	return out, nil
}

func shardTarget(c embedded.Config, s embedded.Shard) (reconcile.Log, error) {
	key, err := loadLogKey(c.PublicKeyFile(s))
	if err != nil {
		return reconcile.Log{}, err
	}
	log, err := monitor.Open(monitor.Options{Name: s.Label(), Key: key, Origin: s.Origin, Dir: c.ShardDir(s)})
	return reconcile.Log{Log: log, MergeDelay: embeddedDelay}, err
}

// monitorOptions say how a log is read: like it is submitted to.
func monitorOptions(l ctlog.LogConfig) (o monitor.Options, err error) {
	o = monitor.Options{
		Name: l.Name, Origin: l.Origin, Monitoring: l.MonitoringURL, Submission: l.URL,
		Transport: monitor.Transport{UserAgent: userAgent()},
	}
	if o.Key, err = loadLogKey(l.PublicKey); err != nil {
		return o, fault.Under(err, "public_key")
	}
	if o.Transport.Roots, err = loadRoots(l.CACert); err != nil {
		return o, fault.Under(err, "ca_cert")
	}
	if pair := l.ClientCertificate; pair != nil {
		certificate, err := pemfile.LoadKeyPair(pair.Certificate, pair.Key)
		if err != nil {
			return o, fault.BadContent(err, "write the paths of a certificate and its private key in PEM",
				"client_certificate")
		}
		o.Transport.Certificate = &certificate
	}
	if l.Proxy != "" {
		proxy, err := url.Parse(l.Proxy)
		if err != nil {
			return o, fault.BadSetting("not a URL", "write http://HOST:PORT or socks5://HOST:PORT", "proxy")
		}
		o.Transport.Proxy = http.ProxyURL(proxy)
	}
	return o, nil
}

// loadRoots reads CA certificates; "" is the system's. It errs with a setting, whose path is the caller's to say.
func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // nil is the system's pool
	}
	data, err := readInput(nil, path)
	if err != nil {
		return nil, fault.BadFile(path, err)
	}
	pool, err := pemfile.Pool(data)
	if err != nil {
		return nil, fault.BadContent(err, "write the path of CA certificates in PEM").In(path)
	}
	return pool, nil
}
