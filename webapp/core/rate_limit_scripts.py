"""The scripts of `rate_limits`: each runs in Redis as one step, between no two halves of which anything else happens.

Of a meter `KEY` there are `fw:limit:KEY` and behind it `:r` and `:t`, the windows of requests and tokens; `:c`, its
open streams by the end of their leases; `:h`, the tokens each of them may still use; `:m:MONTH`, the tokens of a month.
Of an open stream there is `fw:limit:slot:SLOT`: what was counted for it, when and with whom.
"""

from __future__ import annotations

WINDOW_SECONDS = 60
# How long a month's sum is believed before it is looked up again.
MONTH_SUM_SECONDS = 60

# A window is a hash: what was counted in each second, `sum` of it all, `from`, the oldest second there may be, and
# `last`, the newest. A second leaves when it is a minute old to its last moment.
_WINDOWS = f"""
local WINDOW, MONTH = {WINDOW_SECONDS}, {MONTH_SUM_SECONDS}
local function clock(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function leaves(second)
  return second + 1 + WINDOW
end

local function slide(key, now)
  local kept = redis.call('HMGET', key, 'sum', 'from', 'last')
  local sum, from, last, second = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3]), math.floor(now)
  if not from then return 0, second, 0 end
  if now >= leaves(last) then
    redis.call('DEL', key)
    return 0, second, 0
  end
  local first = from
  while now >= leaves(first) do
    local counted = redis.call('HGET', key, first)
    if counted then
      sum = sum - tonumber(counted)
      redis.call('HDEL', key, first)
    end
    first = first + 1
  end
  if first > from then redis.call('HSET', key, 'sum', sum, 'from', first) end
  return sum, first, last
end

local function count(key, second, amount, from, last)
  redis.call('HINCRBY', key, second, amount)
  redis.call('HINCRBY', key, 'sum', amount)
  redis.call('HSET', key, 'from', math.min(from, second), 'last', math.max(last, second))
  redis.call('EXPIRE', key, WINDOW + 2)
end
"""

ADMIT = (
    _WINDOWS
    + """
local ask = cmsgpack.unpack(ARGV[1])
local now, slot = clock(ask.now), 'fw:limit:slot:' .. ask.slot
local second = math.floor(now)
local is_open = redis.call('EXISTS', slot) == 1
local refusals, unknown, windows = {}, {}, {}

-- Milliseconds until `amount` more fits, -1 for never: what was counted first makes room first.
local function wait(window)
  if window.amount > window.limit then return -1 end
  local sum = window.sum
  for at = window.from, window.last do
    sum = sum - (tonumber(redis.call('HGET', window.key, at)) or 0)
    if sum + window.amount <= window.limit then return math.ceil((leaves(at) - now) * 1000) end
  end
  return (WINDOW + 1) * 1000
end

local function look(at, meter, kind, suffix, amount)
  local limit = meter[kind]
  if limit == 0 then return end
  local key = 'fw:limit:' .. meter.key .. suffix
  local sum, from, last = slide(key, now)
  local window = {key = key, kind = kind, limit = limit, amount = amount, sum = sum, from = from, last = last}
  windows[#windows + 1] = window
  if sum + amount > limit then
    refusals[#refusals + 1] = {at, kind, limit, math.max(sum, 0), wait(window)}
  end
end

local function look_at_streams(at, meter, open, held)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now)) do
    redis.call('ZREM', open, member)
    redis.call('HDEL', held, member)
  end
  local streams = redis.call('ZCARD', open)
  if meter.streams > 0 and streams >= meter.streams then
    refusals[#refusals + 1] = {at, 'streams', meter.streams, streams, 0}
  end
end

local function look_at_month(at, meter, held)
  local key = 'fw:limit:' .. meter.key .. ':m:' .. ask.month
  if meter.used >= 0 then redis.call('SET', key, meter.used, 'NX', 'EX', MONTH) end
  local used = tonumber(redis.call('GET', key))
  if not used then
    unknown[#unknown + 1] = at
    return
  end
  -- What is being written is not in the books yet.
  for _, amount in ipairs(redis.call('HVALS', held)) do used = used + tonumber(amount) end
  if used + ask.tokens > meter.monthly then
    refusals[#refusals + 1] = {at, 'monthly', meter.monthly, used, 0}
  end
end

for i, meter in ipairs(ask.meters) do
  local open, held = 'fw:limit:' .. meter.key .. ':c', 'fw:limit:' .. meter.key .. ':h'
  look(i - 1, meter, 'requests', ':r', 1)
  look(i - 1, meter, 'tokens', ':t', ask.tokens)
  if meter.streams > 0 or meter.monthly > 0 then look_at_streams(i - 1, meter, open, held) end
  if meter.monthly > 0 then look_at_month(i - 1, meter, held) end
end
if is_open then refusals, unknown = {}, {} end

if not is_open and #refusals == 0 and #unknown == 0 then
  for _, window in ipairs(windows) do
    count(window.key, second, window.amount, window.from, window.last)
    window.sum, window.last = window.sum + window.amount, math.max(window.last, second)
  end
  local counted = {}
  for i, meter in ipairs(ask.meters) do
    local base = 'fw:limit:' .. meter.key
    if meter.streams > 0 or meter.monthly > 0 then
      redis.call('ZADD', base .. ':c', now + ask.lease, ask.slot)
      redis.call('EXPIRE', base .. ':c', ask.lease + WINDOW)
    end
    if meter.monthly > 0 then
      redis.call('HSET', base .. ':h', ask.slot, ask.tokens)
      redis.call('EXPIRE', base .. ':h', ask.lease + WINDOW)
    end
    counted[i] = {base, meter.requests > 0, meter.tokens > 0}
  end
  redis.call('HSET', slot, 'tokens', ask.tokens, 'second', second, 'used', 0, 'meters', cmsgpack.pack(counted))
  redis.call('EXPIRE', slot, ask.lease)
end

-- Of several meters the one that is nearest to its end.
local function left(kind)
  local found = nil
  for _, window in ipairs(windows) do
    local rest = math.max(window.limit - window.sum, 0)
    local reset = window.last > 0 and math.ceil((leaves(window.last) - now) * 1000) or 0
    if window.kind == kind and (not found or rest < found[2]) then found = {window.limit, rest, reset} end
  end
  return found or {}
end
return cmsgpack.pack({refusals, unknown, left('requests'), left('tokens')})
"""
)

# ARGV: now or 0, slot, tokens used, month, what to do: "use" (more follows), "end", "close", "withdraw".
SETTLE = (
    _WINDOWS
    + """
local now, slot, used, month, act = clock(tonumber(ARGV[1])), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local key = 'fw:limit:slot:' .. slot
local record = redis.call('HMGET', key, 'tokens', 'second', 'used', 'meters')
if not record[1] then return end
local begun, more = tonumber(record[2]), tonumber(record[3]) + used - tonumber(record[1])

-- What was too much goes from the second it was counted in, while that counts; what was too little is used now.
local function correct(window, amount)
  local _, from, last = slide(window, now)
  local at = amount < 0 and begun or math.floor(now)
  if amount ~= 0 and at >= from then count(window, at, amount, from, last) end
end

for _, meter in ipairs(cmsgpack.unpack(record[4])) do
  local base = meter[1]
  local sum, held = base .. ':m:' .. month, redis.call('HGET', base .. ':h', slot)
  if used > 0 and redis.call('EXISTS', sum) == 1 then redis.call('INCRBY', sum, used) end
  if act == 'use' then
    if held then redis.call('HSET', base .. ':h', slot, math.max(tonumber(held) - used, 0)) end
  else
    if act == 'withdraw' and meter[2] then correct(base .. ':r', -1) end
    if act ~= 'close' and meter[3] then correct(base .. ':t', more) end
    redis.call('ZREM', base .. ':c', slot)
    redis.call('HDEL', base .. ':h', slot)
  end
end
if act == 'use' then redis.call('HINCRBY', key, 'used', used) else redis.call('DEL', key) end
"""
)
