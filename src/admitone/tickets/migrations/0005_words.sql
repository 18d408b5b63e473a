-- Tickets listed before get the words by which they would be found if they were listed now: letters with strokes and
-- ligatures plain, and of Chinese and Japanese what begins at each character. `searchable_words` has the rules.
--
-- The trigger is off because finding a ticket by other words is no change of the ticket: its version stays.
ALTER TABLE ticket DISABLE TRIGGER guard_ticket;
WITH letters AS (
    SELECT '\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd' AS cjk
)
UPDATE ticket SET words = array_to_tsvector(ARRAY(
    SELECT DISTINCT piece
    FROM unnest(tsvector_to_array(words)) AS word,
        translate(word, 'łøđðħŧƀıŋ', 'loddhtbin') AS plain,
        replace(replace(replace(plain, 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th') AS spelt,
        regexp_matches(spelt, format('[%1$s]+|[^%1$s]+', cjk), 'g') AS part,
        LATERAL (
            SELECT left(part[1], 100) AS piece WHERE part[1] !~ format('[%s]', cjk)
            UNION ALL
            SELECT substr(part[1], place, 10) FROM generate_series(1, length(part[1])) AS place
            WHERE part[1] ~ format('[%s]', cjk)
        ) AS pieces
))
FROM letters
WHERE status <> 'sold' AND array_to_string(tsvector_to_array(words), ' ') ~ format('[łøđðħŧƀıŋæœþ%s]', cjk);
ALTER TABLE ticket ENABLE TRIGGER guard_ticket;
