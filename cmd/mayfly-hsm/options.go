//go:build cgo

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/token"
	"github.com/mayfly-ca/mayfly/ca/signer/pkcs11/wire"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// options are the values of the flags.
type options struct {
	cli.Common
	module, label, serial   string
	keys                    []string
	pinFile, pinEnvironment string
	noLogin                 bool
	userType                uint
	sessions                int
	callLimit               time.Duration
	socket, stateDir        string
	allowUsers, allowGroups []string
	check                   bool
	fulcio                  string

	names   []token.KeyName
	pin     func() ([]byte, error)
	allowed wire.Allowed
	group   int // group of the socket; -1: not changed
}

const (
	defaultPIN    = "MAYFLY_HSM_PIN"
	maxPIN        = 256
	ckuUser       = 1
	maxConfigFile = 64 << 10
)

func (o *options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.module, "module", "", "`path` of the PKCS#11 library")
	f.StringVar(&o.label, "token", "", "label of the token")
	f.StringVar(&o.serial, "token-serial", "", "serial number of the token, in place of or besides its label")
	f.StringArrayVar(&o.keys, "key", nil, "key to serve: LABEL, id:HEX, or LABEL,id:HEX; repeat it for several keys")
	f.StringVar(&o.pinFile, "pin-file", "", "`path` of a file with the PIN")
	f.StringVar(&o.pinEnvironment, "pin-env", "", "`name` of an environment variable with the PIN (default "+defaultPIN+
		" without --pin-file)")
	f.BoolVar(&o.noLogin, "no-login", false, "the token needs no login")
	f.UintVar(&o.userType, "user-type", ckuUser,
		"type of the user who logs in; 2147483649 is the crypto user of a Luna")
	f.IntVar(&o.sessions, "sessions", 16, "how many signatures are made at once")
	f.Var(cli.DurationFlag(&o.callLimit, 5*time.Second), "call-limit",
		"how long a call of the library may take until the process ends")
	f.StringVar(&o.socket, "socket", "", "absolute `path` of the Unix socket to listen on")
	f.StringVar(&o.stateDir, "state-dir", "",
		"`path` of the directory that remembers a refused PIN (default $STATE_DIRECTORY, or that of the socket)")
	f.StringArrayVar(&o.allowUsers, "allow-user", nil, "name or number of a further user who may connect")
	f.StringArrayVar(&o.allowGroups, "allow-group", nil,
		"name or number of a group whose processes may connect; the socket belongs to the first one")
	f.StringVar(&o.fulcio, "crypto11-config", "",
		"`path` of Fulcio's crypto11.conf, in place of --module, --token and PIN")
	f.BoolVar(&o.check, "check", false, "open the token, find the keys, sign, print what was found, and end")
	o.Add(cmd)
}

// settle checks the options and reads the files that they name.
func (o *options) settle() error {
	if o.fulcio != "" {
		if err := o.readFulcio(); err != nil {
			return err
		}
	}
	switch {
	case o.module == "":
		return cli.Usage("--module is missing: write the path of the PKCS#11 library, such as " +
			"/usr/lib/softhsm/libsofthsm2.so")
	case o.label == "" && o.serial == "":
		return cli.Usage("--token or --token-serial is missing: \"pkcs11-tool --module %s -L\" lists the tokens",
			o.module)
	case len(o.keys) == 0:
		return cli.Usage("--key is missing: write the label of the key, or id:HEX")
	case o.pinFile != "" && o.pinEnvironment != "":
		return cli.Usage("--pin-file and --pin-env are both set: remove one of them")
	case o.noLogin && (o.pinFile != "" || o.pinEnvironment != ""):
		return cli.Usage("--no-login takes no PIN")
	case o.sessions < 1 || o.sessions > token.MaxSessions:
		return cli.Usage("--sessions %d is out of range: write 1 to %d", o.sessions, token.MaxSessions)
	case o.callLimit < token.MinCallLimit || o.callLimit > token.MaxCallLimit:
		return cli.Usage("--call-limit %s is out of range: write %s to %s", o.callLimit, token.MinCallLimit,
			token.MaxCallLimit)
	case o.socket == "" && !o.check && os.Getenv(wire.SocketVariable) == "":
		return cli.Usage("--socket is missing: write an absolute path, such as /run/mayfly/hsm.sock")
	case o.socket != "" && !strings.HasPrefix(o.socket, "/"):
		return cli.Usage("--socket %q is not an absolute path", o.socket)
	}
	if o.pin == nil && !o.noLogin {
		source := &secret.Source{File: o.pinFile, Env: o.pinEnvironment}
		if o.pinFile == "" && o.pinEnvironment == "" {
			source.Env = defaultPIN
		}
		o.pin = func() ([]byte, error) { return readPIN(source) }
	}
	seen := map[string]bool{}
	for _, text := range o.keys {
		k, err := token.ParseKeyName(text)
		if err != nil {
			return cli.Usage("--key %q: %v", text, err)
		}
		if seen[text] {
			return cli.Usage("--key %q is repeated", text)
		}
		seen[text] = true
		o.names = append(o.names, k)
	}
	return o.settleAllowed()
}

func (o *options) settleAllowed() error {
	o.allowed, o.group = wire.Own(), -1
	for _, text := range o.allowUsers {
		id, err := wire.User(text)
		if err != nil {
			return cli.Usage("--allow-user: %v", err)
		}
		o.allowed.UIDs = append(o.allowed.UIDs, id)
	}
	for _, text := range o.allowGroups {
		id, err := wire.Group(text)
		if err != nil {
			return cli.Usage("--allow-group: %v", err)
		}
		o.allowed.GIDs = append(o.allowed.GIDs, id)
		if o.group < 0 {
			o.group = id
		}
	}
	return nil
}

// tokenOptions returns the options for opening the token.
func (o *options) tokenOptions(log *slog.Logger, exit func(int)) token.Options {
	x := token.Options{
		Module: o.module, Label: o.label, Serial: o.serial, Keys: o.names, UserType: o.userType,
		FixedPIN: o.pinFile == "" && o.fulcio == "", Sessions: o.sessions, CallLimit: o.callLimit,
		StateDir: o.stateDirectory(log), Log: log, Hung: func() { exit(exitHung) },
	}
	if !o.noLogin {
		x.PIN = o.pin
	}
	return x
}

// stateDirectory returns the directory for the state that is kept over a restart: --state-dir, the state directory of
// systemd, the directory of the socket, or a directory of this user.
func (o *options) stateDirectory(log *slog.Logger) string {
	dir := cmp.Or(o.stateDir, os.Getenv("STATE_DIRECTORY"))
	if dir == "" && o.socket != "" {
		dir = filepath.Dir(o.socket)
	}
	if dir != "" {
		return dir
	}
	dir = filepath.Join(os.TempDir(), "mayfly-hsm-"+strconv.Itoa(os.Geteuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		log.Warn("the state directory cannot be created", "reason", err.Error())
		return ""
	}
	return dir
}

func readPIN(s *secret.Source) ([]byte, error) {
	pin, err := s.Read()
	if err == nil && len(pin) > maxPIN {
		err = fmt.Errorf("a PIN has at most %d bytes, and this one has %d", maxPIN, len(pin))
	}
	return pin, err
}

// readFulcio reads the settings of Fulcio's crypto11.conf for which there are flags.
func (o *options) readFulcio() error {
	if o.module != "" || o.label != "" || o.serial != "" || o.pinFile != "" || o.pinEnvironment != "" {
		return cli.Usage("--crypto11-config takes the place of --module, --token, --token-serial, " +
			"--pin-file and --pin-env")
	}
	read := func() (c fulcioConfig, err error) {
		data, err := os.ReadFile(o.fulcio)
		switch {
		case err != nil:
			return c, err
		case len(data) > maxConfigFile:
			return c, fmt.Errorf("%s is too large for a configuration", o.fulcio)
		case json.Unmarshal(data, &c) != nil: // the cause may quote the PIN
			return c, fmt.Errorf("%s is not the JSON of a crypto11.conf", o.fulcio)
		}
		return c, nil
	}
	c, err := read()
	if err != nil {
		return cli.Usage("--crypto11-config: %v", err)
	}
	if c.SlotNumber != nil {
		return cli.Usage("%s: SlotNumber is not read, because a slot has another number after a "+
			"restart or a change of the hardware; write TokenLabel or TokenSerial", o.fulcio)
	}
	o.module, o.label, o.serial, o.noLogin = c.Path, c.TokenLabel, c.TokenSerial, c.LoginNotSupported
	if c.UserType != 0 {
		o.userType = c.UserType
	}
	if len(o.keys) == 0 {
		o.keys = []string{"PKCS11CA"} // Fulcio's default
	}
	o.pin = func() ([]byte, error) {
		c, err := read()
		if err == nil && (c.Pin == "" || len(c.Pin) > maxPIN) {
			err = fmt.Errorf("%s: the PIN is missing or longer than %d bytes", o.fulcio, maxPIN)
		}
		return []byte(c.Pin), err
	}
	return nil
}

type fulcioConfig struct {
	Path, TokenLabel, TokenSerial, Pin string
	SlotNumber                         *int
	UserType                           uint
	LoginNotSupported                  bool
}
