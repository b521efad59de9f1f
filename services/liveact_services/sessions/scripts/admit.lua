-- Admits a session: its tenant's quota is checked and the place taken in one step.
-- KEYS  session, tenant's sessions, tenant's live sessions, due
-- ARGV  id, limit ('' for none), due time, field, value, field, value, ...
-- -> OK | DUPLICATE | QUOTA
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'DUPLICATE'}
end
local limit = tonumber(ARGV[2])
if limit and redis.call('SCARD', KEYS[3]) >= limit then
  return {'QUOTA'}
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
return {'OK'}
