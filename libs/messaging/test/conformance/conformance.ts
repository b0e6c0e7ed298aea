import { describeGroup } from './group-suite.ts';
import { describeHandlers } from './handler-suite.ts';
import { describeNetwork } from './network-suite.ts';
import { describePoison } from './poison-suite.ts';
import { describeProducer } from './producer-suite.ts';

/**
 * What a Kafka client must hold behind the port (`src/bus-client.ts`), on a real broker, behind a proxy that breaks, with
 * a real database. Nothing in here knows which client it is; the records and offsets that a test looks at go past the
 * port (`test/wire.ts`).
 *
 * | part | promises |
 * |---|---|
 * | `producer` | order by key; what is acknowledged is in the log, after a lost answer and after a refused partition (the two cases in which an idempotent producer lies); partial refusal in one request; bounds of a request |
 * | `group` | order by key over members that come and go; redelivery; committed offsets never go back; a member to spare; seek |
 * | `handlers` | no error of a handler is the client's; a handler that hangs; a stop during work; a store that is away |
 * | `network` | broker away, black hole each way, connections that break under load, a commit that comes too late |
 * | `poison` | records of any bytes |
 *
 * Another client is put under it by a `BusClient` of its own in `src/` and, so that the parts run beside each other, a
 * file for each of them like `src/kafkajs-group.integration.test.ts`:
 *
 *     conformance.group('another client', anotherBus);
 *
 * A part is passed when all of it is: a promise that a client cannot hold is no promise of messaging any more, and the
 * rule in docs/delivery.md that rests on it has to change first.
 */
export const conformance = {
  producer: describeProducer,
  group: describeGroup,
  handlers: describeHandlers,
  network: describeNetwork,
  poison: describePoison,
};
