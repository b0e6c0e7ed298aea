import { idempotencyKeysSql } from '@signalbox/api/idempotency-keys-sql';

/** The keys of this service's writes; gateway has a table of its own. */
export const up = (pgm: { sql(text: string): void }): void => {
  pgm.sql(idempotencyKeysSql({ schema: 'delegation_gateway' }));
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql('drop function delegation_gateway.forget_keys; drop table delegation_gateway.idempotency_keys');
};
