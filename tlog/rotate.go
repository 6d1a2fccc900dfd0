package tlog

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/loglist"
)

// Rotation is a request for a new shard.
type Rotation struct {
	// At is when the shard becomes active. Zero: the next date of the schedule, or midnight, that is at least the lead
	// away.
	At time.Time
	// Name is the shard's name. Empty: made from At.
	Name string
	// Unpublished allows At to be less than the lead away: verifiers that do not have the new key by then reject its
	// SCTs.
	Unpublished bool
}

// ErrTooSoon is the error of a rotation whose key verifiers could not have in time.
var ErrTooSoon = errors.New("verifiers would not have the new shard's key by then")

// PlanShard returns the shards after a rotation. It changes nothing. It returns an error for a user whose keys the CA
// could not read, and a [fault.Setting] under "at" or "name" for an invalid request.
func (c Config) PlanShard(r Rotation, now time.Time) ([]Shard, error) {
	if err := c.checkOwner(); err != nil {
		return nil, err
	}
	shards, err := c.Shards()
	if err != nil {
		return nil, err
	}
	return c.plan(shards, r, now)
}

func (c Config) plan(shards []Shard, r Rotation, now time.Time) ([]Shard, error) {
	r.At = c.takeoverTime(r, now)
	lead := c.LeadOrDefault()
	last := shards[len(shards)-1]
	switch {
	case r.At.Before(now.Add(-time.Minute)):
		return nil, fault.BadSetting(r.At.Format(time.RFC3339)+" is in the past", "choose a later time", "at")
	case !r.At.After(last.NotBefore):
		return nil, fault.BadSetting(fmt.Sprintf("shard %s already becomes active at %s", last.Label(),
			last.NotBefore.Format(time.RFC3339)), "choose a later time", "at")
	case !last.NotAfter.IsZero():
		return nil, fmt.Errorf("shard %s ends at %s and has no successor; restore %s", last.Label(),
			last.NotAfter.Format(time.RFC3339), stateFile)
	case r.At.Before(now.Add(lead).Truncate(time.Second)) && !r.Unpublished:
		return nil, fmt.Errorf("%s is less than %s away: %w; choose a later time",
			r.At.Format(time.RFC3339), lead, ErrTooSoon)
	}
	if r.Name == "" {
		r.Name = r.At.Format("2006-01-02")
		if s, ok := schedules()[c.Rotate]; ok && s.next(r.At.Add(-time.Second)).Equal(r.At) {
			r.Name = s.name(r.At)
		}
	}
	if err := checkName(r.Name); err != nil {
		return nil, err
	}
	for _, s := range shards {
		if s.Name == r.Name {
			return nil, fault.BadSetting(fmt.Sprintf("the shard %q already exists", r.Name),
				"give the new shard another name",
				"name")
		}
	}
	out := append([]Shard{}, shards...)
	out[len(out)-1].NotAfter = r.At.Add(Overlap)
	return append(out, Shard{
		Kind: c.Kind, Name: r.Name, Origin: c.originOf(r.Name), Window: loglist.Window{NotBefore: r.At},
		Created: now.UTC().Truncate(time.Second),
	}), nil
}

// takeoverTime returns when the new shard becomes active.
func (c Config) takeoverTime(r Rotation, now time.Time) time.Time {
	if !r.At.IsZero() {
		return r.At.UTC().Truncate(time.Second)
	}
	from := now.UTC().Add(c.LeadOrDefault())
	if s, ok := schedules()[c.Rotate]; ok {
		return s.next(from)
	}
	return from.Truncate(24 * time.Hour).Add(24 * time.Hour)
}

// MakeShard makes a new shard and returns it. It writes the shard's directory and key first, then replaces shards.json
// in one step: a process that is killed between the two leaves a key that the same rotation uses later.
func (c Config) MakeShard(r Rotation, now time.Time) (Shard, error) {
	var made Shard
	err := c.change(func(shards []Shard) ([]Shard, error) {
		planned, err := c.plan(shards, r, now)
		if err != nil {
			return nil, err
		}
		used := map[string]bool{}
		for _, s := range planned {
			used[s.LogID] = true
		}
		for i := range planned { // without a previous rotation, the first shard is not in the file yet
			if planned[i].LogID != "" {
				continue
			}
			if planned[i], err = c.createShard(planned[i], used); err != nil {
				return nil, err
			}
			used[planned[i].LogID] = true
		}
		made = planned[len(planned)-1]
		return planned, nil
	})
	return made, err
}

// createShard makes the directory and the key of a shard, unless they exist, and sets the log ID. used are the log IDs
// of the other shards.
func (c Config) createShard(s Shard, used map[string]bool) (Shard, error) {
	dir := c.ShardDir(s)
	if err := mkdirSynced(dir); err != nil {
		return s, err
	}
	if err := claimOrigin(Config{Kind: c.Kind, Dir: dir, Origin: s.Origin}); err != nil {
		return s, err
	}
	_, id, err := c.openKey(dir, used)
	if err != nil {
		return s, err
	}
	s.LogID = hex.EncodeToString(id[:])
	if s.Created.IsZero() {
		s.Created = keyCreated(dir)
	}
	return s, nil
}

// keyCreated returns when the key of a shard was made.
func keyCreated(dir string) time.Time {
	st, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil { // a configured key
		st, err = os.Stat(filepath.Join(dir, originFile))
	}
	if err != nil {
		return time.Time{}
	}
	return st.ModTime().UTC().Truncate(time.Second)
}

// due returns the rotation of the schedule that is due. A date that leaves verifiers less than half of the lead,
// because the schedule is new or the CA was down for long, is skipped.
func (c Config) due(shards []Shard, now time.Time) (Rotation, bool) {
	s, ok := schedules()[c.Rotate]
	if !ok {
		return Rotation{}, false
	}
	lead := c.LeadOrDefault()
	at := s.next(now.UTC().Add(lead / 2))
	if last := shards[len(shards)-1]; !last.NotBefore.Before(at) {
		at = s.next(last.NotBefore)
	}
	return Rotation{At: at, Name: s.name(at), Unpublished: true}, !now.Add(lead).Before(at)
}
