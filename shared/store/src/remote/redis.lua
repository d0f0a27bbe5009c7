-- One change to the books of the shared tier, as a whole. The books are a sorted set of who was used when and a hash of
-- how many bytes each has, with their sum under "total". Values live beside them, one key each.
--
-- KEYS: used, sizes. ARGV: operation, name, bytes, budget, start of the values' keys, milliseconds until an idle value
-- expires. A name is what comes behind the start of its value's key.
local used, sizes = KEYS[1], KEYS[2]
local operation, name, bytes, budget = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local start, idle = ARGV[5], ARGV[6]
local value = start .. name

local function size(of)
    return tonumber(redis.call('HGET', sizes, of) or '0') or 0
end

local function set_total(total)
    redis.call('HSET', sizes, 'total', string.format('%.0f', total))
end

local function forget(of)
    local known = size(of)
    if redis.call('HDEL', sizes, of) == 1 then
        set_total(size('total') - known)
    end
    redis.call('ZREM', used, of)
end

-- Forgets and deletes the least recently used until no more than `limit` bytes are left.
local function shrink(limit)
    while size('total') > limit do
        local first = redis.call('ZRANGE', used, 0, 0)[1]
        if not first then
            break
        end
        forget(first)
        redis.call('DEL', start .. first)
    end
end

local function touch(of)
    local now = redis.call('TIME')
    redis.call('ZADD', used, string.format('%.0f', now[1] * 1000000 + now[2]), of)
end

local function book(of, count)
    forget(of)
    shrink(budget - count)
    touch(of)
    redis.call('HSET', sizes, of, string.format('%.0f', count))
    set_total(size('total') + count)
end

-- Books that do not agree were lost in part, or somebody else wrote them: what they still name is deleted with them.
local function check()
    local of_used, of_sizes = redis.call('TYPE', used).ok, redis.call('TYPE', sizes).ok
    if of_used == 'none' and of_sizes == 'none' then
        return
    end
    local right_kinds = (of_used == 'zset' or of_used == 'none') and of_sizes == 'hash'
    if right_kinds and redis.call('ZCARD', used) + 1 == redis.call('HLEN', sizes) then
        return
    end
    local names = {}
    if of_used == 'zset' then
        names = redis.call('ZRANGE', used, 0, -1)
    end
    if of_sizes == 'hash' then
        for _, of in ipairs(redis.call('HKEYS', sizes)) do
            names[#names + 1] = of
        end
    end
    redis.call('DEL', used, sizes)
    for _, of in ipairs(names) do
        if of ~= 'total' then
            redis.call('DEL', start .. of)
        end
    end
end

check()
local was_there = redis.call('EXISTS', value)
if operation == 'put' then
    book(name, bytes)
elseif operation == 'delete' then
    redis.call('DEL', value)
    forget(name)
elseif operation == 'shed' then
    shrink(math.max(size('total') - bytes, 0))
elseif redis.call('TYPE', value).ok ~= 'string' then
    -- Read, and it is not there: the server dropped it by itself.
    forget(name)
else
    redis.call('PEXPIRE', value, idle)
    if redis.call('HEXISTS', sizes, name) == 1 then
        touch(name)
    elseif redis.call('STRLEN', value) <= budget then
        -- The books were lost without it.
        book(name, redis.call('STRLEN', value))
    else
        redis.call('DEL', value)
    end
end
return was_there
