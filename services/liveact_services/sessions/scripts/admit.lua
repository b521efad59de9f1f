-- uses tenant
-- Admits a session with its stream: its tenant's quotas are checked and the places taken in one step.
-- KEYS  session, tenant's sessions, tenant's places, due, tenant's streams, tenant's usage
-- ARGV  id, due time, sessions, streams, milliseconds of video a day ('' for no limit), milliseconds a place is held,
--       '1' if a client is attached, field, value, field, value, ...
-- -> OK | DUPLICATE | SESSIONS | STREAMS | MINUTES, seconds to the next day
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'DUPLICATE'}
end
if is_full(KEYS[3], ARGV[1], tonumber(ARGV[3])) then
  return {'SESSIONS'}
end
if ARGV[7] == '1' and is_full(KEYS[5], ARGV[1], tonumber(ARGV[4])) then
  return {'STREAMS'}
end
local minutes = tonumber(ARGV[5])
if minutes and used(KEYS[6]) >= minutes then
  return {'MINUTES', to_midnight}
end
redis.call('HSET', KEYS[1], unpack(ARGV, 8))
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
hold(KEYS[3], ARGV[1], ARGV[6])
if ARGV[7] == '1' then
  hold(KEYS[5], ARGV[1], ARGV[6])
end
return {'OK'}
