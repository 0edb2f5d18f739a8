-- For the share of trainings whose end no webhook reported.

-- True: Replicate had to be asked. False: a webhook came first. Null: it has not ended, there was no webhook to miss
-- (it was registered after its end, or Replicate knows of no end), or it ended before this file.
ALTER TABLE state.trainings ADD COLUMN webhook_missed boolean;
GRANT UPDATE (webhook_missed) ON state.trainings TO modelswap_state;
