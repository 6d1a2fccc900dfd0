//go:build !nokms_vault

package kms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
)

// session keeps a client logged in. A login whose lease can be renewed is renewed at two thirds of it; one that cannot,
// or is about to reach its longest life, is replaced. A token in a file is read again twice a minute.
type session struct {
	client *api.Client
	vault  *Vault
	guard  *remote.Guard
	login  func(context.Context) (lease, error) // sets the token of the client
	fixed  bool                                 // the token does not come from a login

	mu    sync.Mutex // one login at a time
	tried time.Time  // the last login that a refused call asked for

	stop context.CancelFunc
	done chan struct{}
}

// lease is how long a token lasts.
type lease struct {
	time      time.Duration // 0: forever
	renewable bool
	began     time.Duration // time when the lease was new; renewals that get much less are near the end of its life
}

const (
	leaseShare  = 2.0 / 3          // of a lease, after which it is renewed
	readEvery   = 30 * time.Second // a token in a file
	retryEvery  = 10 * time.Second // a renewal that failed
	shortest    = time.Second      // between two renewals
	againEvery  = 10 * time.Second // a login because a call was refused
	serviceFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

func newSession(client *api.Client, v *Vault, guard *remote.Guard) *session {
	s := &session{client: client, vault: v, guard: guard, done: make(chan struct{})}
	role := func(r *Role, method string) func(context.Context) (lease, error) {
		return func(ctx context.Context) (lease, error) {
			token, err := r.Token.Read()
			if err != nil {
				return lease{}, fault.Under(err, "vault", method, "token")
			}
			return s.post(ctx, cmp.Or(r.Mount, method),
				map[string]any{"role": r.Role, "jwt": strings.TrimSpace(string(token))})
		}
	}
	switch {
	case v.AppRole != nil:
		s.login = func(ctx context.Context) (lease, error) {
			body := map[string]any{"role_id": v.AppRole.RoleID}
			secret, err := v.AppRole.SecretID.Read()
			if err != nil {
				return lease{}, fault.Under(err, "vault", "approle", "secret_id")
			}
			if secret != nil {
				body["secret_id"] = string(secret)
			}
			return s.post(ctx, cmp.Or(v.AppRole.Mount, "approle"), body)
		}
	case v.Kubernetes != nil:
		r := *v.Kubernetes
		if r.Token == nil {
			r.Token = &Secret{File: serviceFile}
		}
		s.login = role(&r, "kubernetes")
	case v.JWT != nil:
		s.login = role(v.JWT, "jwt")
	default:
		s.login, s.fixed = s.readToken, true
	}
	return s
}

// begin logs in, and keeps the session alive until end.
func (s *session) begin(ctx context.Context) error {
	var l lease
	if err := s.guard.Do(ctx, "login", func(ctx context.Context) (err error) {
		l, err = s.login(ctx)
		return err
	}); err != nil {
		return err
	}
	var alive context.Context
	alive, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go s.keep(alive, l)
	return nil
}

// end stops the renewal. A token that a login got is left to expire: another process may use the same cached login.
func (s *session) end() error {
	s.stop()
	<-s.done
	return nil
}

// keep renews or replaces the token until ctx ends.
func (s *session) keep(ctx context.Context, l lease) {
	defer close(s.done)
	for {
		wait := time.Duration(float64(l.time) * leaseShare)
		if s.fixed && (l.time == 0 || wait > readEvery) {
			wait = readEvery
		}
		if wait == 0 {
			<-ctx.Done() // a login that lasts forever
			return
		}
		timer := time.NewTimer(max(wait, shortest))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		next, err := s.prolong(ctx, l)
		if err != nil { // the metric counts it, and a call that is refused says why
			next = lease{time: time.Duration(float64(retryEvery) / leaseShare), renewable: l.renewable, began: l.began}
		}
		l = next
	}
}

// prolong renews the token, or gets another one.
func (s *session) prolong(ctx context.Context, l lease) (next lease, err error) {
	if s.fixed {
		s.mu.Lock()
		before := s.client.Token()
		next, err = s.login(ctx) // reads the file and asks how long the token lasts
		s.mu.Unlock()
		if err != nil || s.client.Token() != before || !next.renewable ||
			next.time > time.Duration(float64(l.began)*(1-leaseShare)) {
			return next, err
		}
	}
	if l.renewable {
		err = s.guard.Do(ctx, "renew", func(ctx context.Context) error {
			secret, err := s.client.Auth().Token().RenewSelfWithContext(ctx, 0)
			if err != nil {
				return vaultError(err, `path "auth/token/renew-self" { capabilities = ["update"] }`)
			}
			next = leaseOf(secret)
			return nil
		})
		next.began = l.began
		if err == nil && (s.fixed || next.time > l.began/2) {
			return next, nil
		}
	}
	if s.fixed {
		return next, err
	}
	err = s.guard.Do(ctx, "login", func(ctx context.Context) (err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		next, err = s.login(ctx)
		return err
	})
	return next, err
}

// call makes a call, and once more with another token if the token was refused and there is another one.
func (s *session) call(ctx context.Context, f func(*api.Client) (*api.Secret, error)) (*api.Secret, error) {
	used := s.client.Token()
	secret, err := f(s.client)
	var answer *api.ResponseError
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusForbidden {
		return secret, err
	}
	if !s.again(ctx, used) {
		return secret, err
	}
	return f(s.client)
}

// again reports whether there is a token other than the one that was used, and logs in for it, but not often.
func (s *session) again(ctx context.Context, used string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client.Token() != used {
		return true
	}
	if time.Since(s.tried) < againEvery {
		return false
	}
	s.tried = time.Now()
	_, err := s.login(ctx)
	return err == nil && s.client.Token() != used
}

// post logs in with a method.
func (s *session) post(ctx context.Context, mount string, body map[string]any) (lease, error) {
	path := "auth/" + strings.Trim(mount, "/") + "/login"
	anonymous, err := s.client.CloneWithHeaders() // with the namespace, without the token
	if err != nil {
		return lease{}, err
	}
	anonymous.ClearToken()
	secret, err := anonymous.Logical().WriteWithContext(ctx, path, body)
	var answer *api.ResponseError
	switch {
	case errors.As(err, &answer) && answer.StatusCode < http.StatusInternalServerError &&
		answer.StatusCode != http.StatusTooManyRequests:
		return lease{}, &remote.Error{Kind: remote.Denied, Err: fmt.Errorf("the login at %s is refused: status %d: %s",
			path, answer.StatusCode, strings.Join(answer.Errors, "; "))}
	case err != nil:
		return lease{}, vaultError(err, "")
	case secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "":
		return lease{}, unavailable(fmt.Errorf("the answer of %s has no token", path))
	}
	s.client.SetToken(secret.Auth.ClientToken)
	l := leaseOf(secret)
	l.began = l.time
	return l, nil
}

// readToken takes the token from where the settings or the environment say, and asks how long it lasts. A token that
// may not ask is used as long as it is accepted.
func (s *session) readToken(ctx context.Context) (lease, error) {
	token, err := s.vault.token()
	if err != nil {
		return lease{}, err
	}
	s.client.SetToken(token)
	secret, err := s.client.Auth().Token().LookupSelfWithContext(ctx)
	var answer *api.ResponseError
	switch {
	case errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden:
		return lease{}, nil
	case err != nil:
		return lease{}, vaultError(err, "")
	}
	left, err := secret.TokenTTL()
	if err != nil {
		return lease{}, unavailable(err)
	}
	renewable, err := secret.TokenIsRenewable()
	if err != nil {
		return lease{}, unavailable(err)
	}
	began := left
	if number, ok := secret.Data["creation_ttl"].(interface{ Int64() (int64, error) }); ok {
		if seconds, err := number.Int64(); err == nil {
			began = time.Duration(seconds) * time.Second
		}
	}
	return lease{time: left, renewable: renewable, began: began}, nil
}

// token returns the token of the settings, the environment or the home directory.
func (v *Vault) token() (string, error) {
	if v.Token != nil {
		token, err := v.Token.Read()
		return strings.TrimSpace(string(token)), fault.Under(err, "vault", "token")
	}
	if token := api.ReadBaoVariable(api.EnvVaultToken); token != "" {
		return token, nil
	}
	if home, err := os.UserHomeDir(); err == nil {
		if data, err := os.ReadFile(filepath.Join(home, ".vault-token")); err == nil && len(data) > 0 {
			return strings.TrimSpace(string(data)), nil
		}
	}
	return "", fault.BadSetting("the token or the login is missing",
		"write one of token, approle, kubernetes and jwt below vault, or set BAO_TOKEN or VAULT_TOKEN", "vault")
}

// leaseOf returns the lease of the token in an answer.
func leaseOf(secret *api.Secret) lease {
	if secret == nil || secret.Auth == nil {
		return lease{}
	}
	return lease{time: time.Duration(secret.Auth.LeaseDuration) * time.Second, renewable: secret.Auth.Renewable}
}
