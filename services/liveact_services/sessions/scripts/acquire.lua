-- Gives out a session's lease with a new fencing token, greater than every one before.
-- The token is the time where that is greater: a counter alone would repeat itself after Redis lost its last writes.
-- KEYS  session, lease
-- ARGV  owner, milliseconds, '1' to take it from its holder, ended states (' A B '), the token of who had it last and wants it
--       back ('' for anybody)
-- -> OK, token | MISSING | ENDED, state | BUSY, milliseconds left | STALE (another was given it since)
local state, last = unpack(redis.call('HMGET', KEYS[1], 'state', 'token'))
if not state then
  return {'MISSING'}
end
if string.find(ARGV[4], ' ' .. state .. ' ', 1, true) then
  return {'ENDED', state}
end
if ARGV[5] ~= '' and last ~= ARGV[5] then
  return {'STALE'}
end
local left = redis.call('PTTL', KEYS[2])
if ARGV[3] ~= '1' and left ~= -2 then
  return {'BUSY', left}
end
local now = redis.call('TIME')
local token = string.format('%.0f', math.max(tonumber(last) + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
redis.call('HSET', KEYS[1], 'token', token, 'gateway', ARGV[1])
redis.call('SET', KEYS[2], token, 'PX', ARGV[2])
return {'OK', token}
