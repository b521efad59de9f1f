-- What a tenant uses of its quotas, in Redis's own time. In front of every script that uses it.
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local today = math.floor(clock[1] / 86400)
local to_midnight = string.format('%d', (today + 1) * 86400 - clock[1])

-- Places: a sorted set of session ids by when each lapses. Who holds one renews it; who dies loses it by himself.
local function is_full(places, id, limit)
  redis.call('ZREMRANGEBYSCORE', places, '-inf', now_ms)
  return limit and not redis.call('ZSCORE', places, id) and redis.call('ZCARD', places) >= limit
end

local function hold(places, id, milliseconds)
  redis.call('ZADD', places, now_ms + milliseconds, id)
end

-- Usage: a hash of the day and the milliseconds of video made in it. Yesterday is forgotten.
local function used(usage)
  local day, made = unpack(redis.call('HMGET', usage, 'day', 'ms'))
  return tonumber(day) == today and tonumber(made) or 0
end

-- Counts what a session made since it last said so: telling the same twice counts once.
local function count(usage, session, frames)
  local before, fps = unpack(redis.call('HMGET', session, 'frame', 'fps'))
  local made = math.floor(frames * 1000 / fps) - math.floor(before * 1000 / fps)
  if made > 0 then
    redis.call('HSET', usage, 'day', today, 'ms', used(usage) + made)
  end
end

