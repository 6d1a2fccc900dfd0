package shared

import (
	"context"
	"crypto/fips140"
	"crypto/sha1" //nolint:gosec // the store names scripts by SHA-1; nothing rests on its strength
	"encoding/hex"
	"fmt"
	"time"

	"github.com/valkey-io/valkey-go"
)

// A use of a token is stored at a key with the hash of the token, in one of [groups] groups. Each group has a marker in
// the same slot of a cluster: since when the memory of the group is complete (born, milliseconds of the store's clock),
// and how many uses were counted in it (seq). A caller sends the highest number that the store has acknowledged to it.
// If the marker is missing or has a lower number, the store has lost its memory, or the most recent part of it: after
// FLUSHALL, an eviction, a restart from an older file, or a failover to a replica that was behind. Then the memory is
// complete only from now on.

// spendText counts a use of the token at KEYS[1], if there is room. KEYS[2] is the marker.
//
//	ARGV  1: highest seq  2: most uses  3: exp, ms  4: how long the use is stored at least, ms  5: iat, s
//	      6: "1" to refuse tokens that may have been used before born  7: leeway after exp, ms
//
// With ARGV[1] alone it is a probe: it checks or makes the marker, and writes it in any case, so that a store that
// accepts no writes is noticed. It returns {status, used, born, seq, 1 if memory was lost}.
const spendText = `
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local m = redis.call('HMGET', KEYS[2], 'born', 'seq')
local born = m[1] and tonumber(m[1])
local seq = m[2] and tonumber(m[2])
local seen = tonumber(ARGV[1])
local lost, changed, status, used = 0, false, 2, 0
if not born or not seq or seq < seen then
  born, lost, changed = now, 1, true
  if not seq or seq < seen then seq = seen end
elseif born > now then
  born, changed = now, true
end
if #ARGV > 1 then
  used = tonumber(redis.call('GET', KEYS[1]) or '0')
  if used >= tonumber(ARGV[2]) then
    status = 0
  elseif ARGV[6] == '1' and tonumber(ARGV[5]) <= math.floor(born / 1000) then
    status = 3
  else
    used = redis.call('INCR', KEYS[1])
    local keep = math.max(tonumber(ARGV[3]) - now + tonumber(ARGV[7]), tonumber(ARGV[4]))
    if redis.call('PTTL', KEYS[1]) < keep then
      redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep))
    end
    seq, changed, status = seq + 1, true, 1
  end
end
if changed or #ARGV == 1 then
  redis.call('HSET', KEYS[2], 'born', string.format('%.0f', born), 'seq', string.format('%.0f', seq))
end
return {status, used, born, seq, lost}
`

// takeText is [rate.Config.Take] with the store's clock, in microseconds. ARGV: interval, tolerance. It returns the
// wait: 0 if the request counts.
const takeText = `
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local before = redis.call('GET', KEYS[1])
local stored = before and tonumber(before) or 0
local next = math.min(stored, now + tonumber(ARGV[2]))
local after = math.max(next, now) + tonumber(ARGV[1])
local over = math.max(0, after - now - tonumber(ARGV[2]))
if over > 0 then after = next end
if over == 0 or next < stored then
  redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', string.format('%.0f', math.ceil((after - now) / 1000)))
end
return over
`

// script is a script with the name that the store gives it.
type script struct{ text, sum string }

func newScript(text string) script {
	var sum [sha1.Size]byte
	fips140.WithoutEnforcement(func() { sum = sha1.Sum([]byte(text)) }) //nolint:gosec // see above
	return script{text, hex.EncodeToString(sum[:])}
}

// run runs the script, which is sent if the store does not have it.
func (s script) run(ctx context.Context, c valkey.CommandClient, keys, args []string) valkey.ValkeyResult {
	n := int64(len(keys))
	r := c.Do(ctx, c.B().Evalsha().Sha1(s.sum).Numkeys(n).Key(keys...).Arg(args...).Build())
	if e, ok := valkey.IsValkeyErr(r.Error()); ok && e.IsNoScript() {
		r = c.Do(ctx, c.B().Eval().Script(s.text).Numkeys(n).Key(keys...).Arg(args...).Build())
	}
	return r
}

// The values of reply.status.
const (
	statusReplayed = 0
	statusCounted  = 1
	statusMarked   = 2
	statusUnknown  = 3
)

// reply is what spendText returns.
type reply struct {
	status int64
	used   int64
	born   time.Time
	seq    int64
	lost   bool
}

// maxSeq is the highest seq: larger numbers are not exact in Lua.
const maxSeq = 1 << 53

// parseReply reads a reply. A store that answers something else is not trusted to have counted.
func parseReply(all []int64) (reply, error) {
	if len(all) != 5 {
		return reply{}, fmt.Errorf("the store answers with %d numbers in place of 5", len(all))
	}
	r := reply{status: all[0], used: all[1], born: time.UnixMilli(all[2]), seq: all[3], lost: all[4] == 1}
	if r.status < statusReplayed || r.status > statusUnknown || r.used < 0 || all[2] <= 0 ||
		r.seq < 0 || r.seq > maxSeq || all[4]>>1 != 0 ||
		r.status == statusCounted && (r.used < 1 || r.seq < 1) {
		return reply{}, fmt.Errorf("the store answers with the numbers %d", all)
	}
	return r, nil
}
