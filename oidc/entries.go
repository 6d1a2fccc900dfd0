package oidc

import (
	"context"
	"sync"
)

// EntryInfo is an entry of the configuration as its operator wants to see it.
type EntryInfo struct {
	Key        string   `json:"key"` // URL or pattern
	Pattern    bool     `json:"pattern"`
	Type       string   `json:"type"`
	Profile    string   `json:"profile,omitempty"` // shipped or of the file
	Audiences  []string `json:"audiences"`
	Rules      []string `json:"rules,omitempty"`  // deny rules before allow rules; in shadow mode with a mark
	Claims     []string `json:"claims,omitempty"` // that a token must have, for profiles
	StaticKeys bool     `json:"static_keys"`
}

// Entries lists the entries: exact issuers sorted, then patterns sorted.
func (e *Explainer) Entries() []EntryInfo {
	var out []EntryInfo
	for _, r := range e.table.rows {
		i := EntryInfo{Key: r.key, Pattern: r.wildcard, Type: r.config.Type, Profile: r.config.Profile, Audiences: r.audiences, StaticKeys: r.config.StaticKeys != nil}
		if i.Profile == "" {
			i.Profile = r.config.CIProvider
		}
		if r.profile != nil {
			i.Claims = r.profile.needs()
		}
		if r.policy != nil {
			for _, one := range r.policy.rules {
				i.Rules = append(i.Rules, one.label())
			}
		}
		out = append(out, i)
	}
	return out
}

func (r rule) label() string {
	text := "deny " + r.name
	if r.allow {
		text = "allow " + r.name
	}
	if r.shadow {
		text += " (shadow)"
	}
	return text
}

// Probe asks every exact issuer for its keys once and returns how it went, sorted.
func (v *Verifier) Probe(ctx context.Context) []Status {
	for _, r := range v.table.rows {
		r.route.readSecrets()
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, p := range v.providers {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			_ = p.refresh(ctx, caller{request: true}) // its error is in the status
		})
	}
	all.Wait()
	return v.Status()
}
