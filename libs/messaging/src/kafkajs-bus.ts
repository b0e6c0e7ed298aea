import type { BusClient } from './bus-client.ts';
import { GroupMember } from './group-member.ts';
import { openProducerClient } from './producer-client.ts';

/** kafkajs 2.2.4 behind the port. */
export const kafkajsBus: BusClient = {
  openProducer: openProducerClient,
  openMember: (options) => new GroupMember(options),
};
