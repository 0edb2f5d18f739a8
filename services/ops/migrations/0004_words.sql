-- The words of what went wrong, whatever the locale of the database: in the locale C, [:alnum:] knows ASCII only, and
-- words in other alphabets were not found at all. So nothing but ASCII's own punctuation parts them.

DROP INDEX ops.letters_by_words;
CREATE INDEX letters_by_words ON ops.letters USING gin (
    to_tsvector('simple', regexp_replace(error_class || ' ' || error_text, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g')));
