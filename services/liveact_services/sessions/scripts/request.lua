-- Takes one token out of a tenant's bucket, which fills at a steady rate.
-- KEYS  tenant's requests
-- ARGV  tokens a second, size of the bucket
-- -> OK | WAIT, seconds until there is one
local rate, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local tokens, at = unpack(redis.call('HMGET', KEYS[1], 'tokens', 'at'))
tokens = math.min(size, tonumber(tokens or size) + math.max(0, now - tonumber(at or now)) * rate)
if tokens < 1 then
  return {'WAIT', tostring((1 - tokens) / rate)}
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens - 1), 'at', string.format('%.17g', now))
-- By then it is full again, which is what a bucket that is not there is.
redis.call('PEXPIRE', KEYS[1], math.ceil(size / rate * 1000) + 1000)
return {'OK'}
