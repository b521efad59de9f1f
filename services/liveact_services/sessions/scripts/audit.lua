-- Chains events to a tenant's, if the chain ends where the writer thinks it does.
-- KEYS  tenant's events, where their chain ends, the tenants of whom there are events
-- ARGV  where it is thought to end, where it ends after this, events kept at most, milliseconds of the oldest kept,
--       seconds after which a tenant of whom nothing new comes is forgotten, tenant, event, hash, event, hash, ...
-- -> OK | OTHER, where it ends
local head = redis.call('GET', KEYS[2]) or ''
if head ~= ARGV[1] then
  return {'OTHER', head}
end
for i = 7, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[i], 'hash', ARGV[i + 1])
end
redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[4])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('SADD', KEYS[3], ARGV[6])
return {'OK'}
