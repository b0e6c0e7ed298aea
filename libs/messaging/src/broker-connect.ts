import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** The members of kafkajs' internal Broker that the override touches. */
interface Broker {
  /** Null until the broker has answered which requests it knows; without them none can be built. */
  versions: object | null;
  connect(): Promise<void>;
  disconnect(): Promise<void>;
}

let patched = false;

/**
 * kafkajs keeps a connection whose first question (ApiVersions) was not answered in time: it counts as connected, so it
 * is never asked again, and as nothing is known of the broker every request on it fails with `Broker not connected`, for as
 * long as the connection lives. A black hole of a second right there stopped a producer for good. Here a connection
 * that has not come through its first question is closed, and the next try opens another. Idempotent.
 */
export function patchBrokerConnect(): void {
  if (patched) return;
  patched = true;
  const broker: { prototype: Broker } = require('kafkajs/src/broker');
  const { connect } = broker.prototype;
  broker.prototype.connect = async function whole(this: Broker): Promise<void> {
    try {
      await connect.call(this);
    } catch (error) {
      if (this.versions === null) await this.disconnect();
      throw error;
    }
  };
}
