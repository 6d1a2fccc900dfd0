package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/canary"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
)

// Inspect is the part of [Check] about the files that a loaded configuration names, without the certificates of the
// listeners: it loads them, and proves that they can issue. It changes nothing. What is wrong is [config.Problems].
func Inspect(ctx context.Context, cfg *config.Config) ([]config.Warning, error) {
	f, err := loadAndTest(ctx, nil, cfg)
	if err != nil {
		return nil, err
	}
	return f.warnings, f.close()
}

// Clock is what the clock of another machine says.
type Clock struct {
	Name string // of the issuer or the log
	// Offset is that clock minus this machine's; 0 if the difference is within the duration of the request.
	Offset time.Duration
}

// ExamineIssuers fetches the keys of every issuer, as "config check --online" does, and also returns the clocks of the
// providers. What is wrong with the configuration is [config.Problems].
func ExamineIssuers(ctx context.Context, cfg *config.Config) (issuers []ReportedIssuer, clocks []Clock, err error) {
	var mu sync.Mutex
	offsets := map[string]time.Duration{}
	issuers, err = probeIssuers(ctx, cfg, func(entry string, date, sent time.Time) {
		mu.Lock()
		defer mu.Unlock()
		offsets[entry] = offsetOf(date, sent, time.Now())
	})
	mu.Lock()
	defer mu.Unlock()
	for _, one := range issuers {
		if d, ok := offsets[one.Issuer]; ok {
			clocks = append(clocks, Clock{one.Issuer, d})
		}
	}
	return issuers, clocks, err
}

// offsetOf returns how far a Date header, which is rounded down to a second, is outside the time of its request.
func offsetOf(date, sent, received time.Time) time.Duration {
	switch earliest := sent.Add(-time.Second); {
	case date.Before(earliest):
		return date.Sub(earliest)
	case date.After(received):
		return date.Sub(received)
	}
	return 0
}

// ErrNoChain means that the logs were not asked, because the chain of the CA cannot be read.
var ErrNoChain = errors.New("the chain of the CA cannot be read")

// ExamineLogs asks every log for its roots, its head and its time, as "config check --online" does. A log whose own
// files are wrong does not keep the others from being asked.
func ExamineLogs(ctx context.Context, cfg *config.Config) (logs []ReportedLog, clocks []Clock, err error) {
	f := &loadedFiles{}
	if f.chain, err = PublicChain(cfg); err != nil && len(cfg.CT.Logs) > 0 {
		return nil, nil, errors.Join(ErrNoChain, err)
	}
	for _, name := range cfg.CA.Trust {
		if chain, err := signer.ReadChain(name); err == nil { // an error is one of the chains
			f.trust = append(f.trust, chain)
		}
	}
	logs = make([]ReportedLog, len(cfg.CT.Logs))
	found := make([]*Clock, len(cfg.CT.Logs))
	var all sync.WaitGroup
	for i, l := range cfg.CT.Logs {
		opened, err := openLog(l, cfg.CT.Policy)
		if err != nil {
			err = cfg.Locate(fault.Under(err, "ct", "logs", strconv.Itoa(i)))
			logs[i] = ReportedLog{Name: l.Name, Problems: []string{err.Error()}}
			continue
		}
		all.Go(func() {
			report, e := f.askLog(ctx, opened)
			if logs[i] = report; e.Dated {
				found[i] = &Clock{l.Name, e.Offset}
			}
		})
	}
	all.Wait()
	for _, one := range found {
		if one != nil {
			clocks = append(clocks, *one)
		}
	}
	logs = append(logs, ownHeads(ctx, cfg)...) //nolint:makezero // the first ones are filled above
	return logs, clocks, nil
}

// MemoryLimit returns the memory limit of this process's control group in bytes; 0 means that there is none.
func MemoryLimit() int64 { return groupLimit(os.ReadFile) }

// Trial builds the CA of a configuration without opening a listener, makes one run of the canary, and takes the CA down
// again: the journal gets the records of a start, of the run and of a stop, and the logs get one precertificate. No
// other process may run the CA meanwhile.
func Trial(ctx context.Context, path string, logger *slog.Logger) (run *canary.Run, err error) {
	n := newNode(Options{Path: path, Logger: logger})
	if n.started, _, err = config.Load(path); err != nil {
		return nil, err
	}
	if n.files, err = loadAndTest(ctx, n.log, n.started); err != nil {
		return nil, err
	}
	registry := newRegistry()
	if err := n.newServer(registry); err != nil {
		return nil, errors.Join(err, n.files.close())
	}
	if err := n.openJournal(registry); err != nil {
		return nil, errors.Join(err, n.files.close())
	}
	defer func() { err = errors.Join(err, n.journal.close()) }()
	s, err := n.assemble(ctx, n.started, n.files, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	target := n.targetOf(s)
	target.Interval = canary.DefaultInterval // also without canary: in the configuration
	n.canary = canary.New(canary.Options{
		Target: func() *canary.Target { return target }, Compute: n.admission.Compute, Logger: n.log,
	})
	return n.canary.Now(ctx)
}
