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

// session keeps a client logged in. A renewable token is renewed after two thirds of its lease. A token that is not
// renewable, or is near its maximum lifetime, is replaced by a new login. A token in a file is read again twice a
// minute.
type session struct {
	client *api.Client
	vault  *Vault
	guard  *remote.Guard
	login  func(context.Context) (lease, error) // sets the token of the client
	fixed  bool                                 // the token does not come from a login

	mu    sync.Mutex // one login at a time
	tried time.Time  // time of the last login after a refused call

	stop context.CancelFunc
	done chan struct{}
}

// lease is the lifetime of a token.
type lease struct {
	time      time.Duration // 0: forever
	renewable bool
	began     time.Duration // length of the first lease; a renewal that gets much less is near the maximum lifetime
}

const (
	leaseShare  = 2.0 / 3          // share of a lease after which the token is renewed
	readEvery   = 30 * time.Second // interval of reading a token file
	retryEvery  = 10 * time.Second // pause after a failed renewal
	shortest    = time.Second      // minimum pause between two renewals
	againEvery  = 10 * time.Second // minimum pause between two logins after refused calls
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

// begin logs in, and keeps the session logged in until end.
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

// end stops the renewal. It does not revoke the token: another process may use the same cached login.
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
			<-ctx.Done() // the token never expires
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
		if err != nil { // the failure is counted in the metrics; a refused call reports the cause
			next = lease{time: time.Duration(float64(retryEvery) / leaseShare), renewable: l.renewable, began: l.began}
		}
		l = next
	}
}

// prolong renews the token or logs in again.
func (s *session) prolong(ctx context.Context, l lease) (next lease, err error) {
	if s.fixed {
		s.mu.Lock()
		before := s.client.Token()
		next, err = s.login(ctx) // reads the file and looks up the lease of the token
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

// call makes a call. If the server refused the token and another token is available, it makes the call once more.
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

// again reports whether the client has another token than the refused one. If it does not, again logs in first, unless
// it did so recently.
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

// post logs in with an auth method.
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

// readToken reads the token that the settings or the environment name, and looks up its lease. A token without the
// permission to look itself up is used until the server refuses it.
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

// leaseOf returns the lease of the token in a response.
func leaseOf(secret *api.Secret) lease {
	if secret == nil || secret.Auth == nil {
		return lease{}
	}
	return lease{time: time.Duration(secret.Auth.LeaseDuration) * time.Second, renewable: secret.Auth.Renewable}
}
